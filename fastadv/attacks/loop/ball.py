"""The set that an attack searches: a ball around each image, cut by the box; and the points where it begins."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.ops import ball, checks


class Ball(NamedTuple):
    """The points that an attack may reach.

    eps: radius in the units of the images, a float or [N]. norm: "linf", "l2" or "l1". bounds: (low, high) or None.
    mode: "exact" or "sequential", of projections. mask: the pixels that may move, bool, broadcast to the images
    [N, ...]; None is all of them.
    """

    eps: float | Tensor
    norm: str = "linf"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    mode: str = "exact"
    mask: Tensor | None = None

    def check(self, x: Tensor) -> None:
        """Raise TypeError or ValueError where the mask does not fit ``x`` [N, ...]; the ops check the rest."""
        mask = self.mask
        if mask is None:
            return
        if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
            raise TypeError(f"mask must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.device != x.device:
            raise ValueError(f"mask must be on the device of x, {x.device}, got {mask.device}")
        try:
            fits = torch.broadcast_shapes(mask.shape, x.shape) == x.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"mask must broadcast to the images {list(x.shape)}, got {list(mask.shape)}")

    @property
    def projection(self) -> dict[str, Any]:
        """The keywords that :func:`fastadv.project` and :func:`fastadv.pgd_step` share."""
        return {"eps": self.eps, "norm": self.norm, "bounds": self.bounds, "mode": self.mode}

    def mask_of(self, x: Tensor, copies: int) -> Tensor | None:
        """Return the mask of ``copies`` rows of each image of ``x`` [N, ...], to broadcast against them."""
        mask = self.mask
        own = mask is not None and mask.dim() == x.dim() and mask.shape[0] > 1
        return repeat_rows(mask, copies) if own else mask

    def of_copies(self, copies: int) -> Ball:
        """Return the same for ``copies`` rows an image."""
        return self if copies == 1 else self._replace(eps=repeat_rows(self.eps, copies))

    def clean_rows(self, x: Tensor, copies: int) -> Tensor:
        """Return ``copies`` copies of each image of ``x`` [N, ...], in the box: [N * copies, ...]."""
        x = repeat_rows(x, copies)
        return ball.project(x, x, **self.of_copies(copies).projection)

    def random_rows(self, x: Tensor, copies: int, noise: Noise) -> Tensor:
        """Draw ``copies`` points in the ball around each image of ``x`` [N, ...]: [N * copies, ...].

        They are uniform in the ball, then projected to the box, see :func:`fastadv.random_start`.
        """
        centre, eps = repeat_rows(x, copies), repeat_rows(self.eps, copies)
        drawn = noise.of_copies(x, copies)
        start = ball.random_start(centre, eps=eps, norm=self.norm, bounds=self.bounds, **drawn)  # type: ignore[arg-type]
        mask = self.mask_of(x, copies)
        return start if mask is None else torch.where(mask, start, centre)

    def around_start(self, x: Tensor, start_eps: float | Tensor | None) -> Ball:
        """Return the ball of radius ``start_eps``, at most ``eps``, around ``x`` [N, ...]; None is ``eps`` itself."""
        eps = self.eps
        if start_eps is None:
            return self
        checks.radius("start_eps", start_eps, x)
        if isinstance(start_eps, Tensor):
            return self._replace(eps=start_eps.clamp(max=eps))
        if isinstance(eps, Tensor):
            return self._replace(eps=eps.clamp(max=start_eps))
        if start_eps > eps:
            raise ValueError(f"start_eps must be at most eps, {eps}, got {start_eps}")
        return self._replace(eps=start_eps)
