"""The set that an attack searches: a ball around each image, cut by the box; and the points where it begins."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.rows import repeat_numbers, repeat_rows
from fastadv.numerics import per_sample
from fastadv.ops import ball, checks
from fastadv.ops.pixelwise import Bounds


class Ball(NamedTuple):
    """The points that an attack may reach.

    eps: radius in the units of the images [N, ...], a float, [N], or for linf a tensor that broadcasts to them.
    norm: "linf", "l2" or "l1". bounds: (low, high) or None; for linf both may be such tensors too.
    mode: "exact" or "sequential", of projections. mask: the pixels that may move, bool, broadcast to the images; None
    is all of them.
    """

    eps: float | Tensor
    norm: str = "linf"
    bounds: Bounds = (0.0, 1.0)
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

    def of_copies(self, x: Tensor, copies: int) -> Ball:
        """Return the same for ``copies`` rows of each image of ``x`` [N, ...]."""
        if copies == 1:
            return self
        eps, mask = repeat_numbers(self.eps, x, copies), self.mask
        if mask is not None and mask.dim() == x.dim():
            mask = repeat_numbers(mask, x, copies)
        bounds = self.bounds
        if bounds is not None:
            low, high = bounds
            bounds = repeat_numbers(low, x, copies), repeat_numbers(high, x, copies)
        return self._replace(eps=eps, bounds=bounds, mask=mask)

    def clean_rows(self, x: Tensor, copies: int) -> Tensor:
        """Return ``copies`` copies of each image of ``x`` [N, ...], in the box: [N * copies, ...]."""
        rows = repeat_rows(x, copies)
        return ball.project(rows, rows, **self.of_copies(x, copies).projection)

    def random_rows(self, x: Tensor, copies: int, noise: Noise) -> Tensor:
        """Draw ``copies`` points in the ball around each image of ``x`` [N, ...]: [N * copies, ...].

        They are uniform in the ball, then projected to the box, see :func:`fastadv.random_start`.
        """
        eps, norm, bounds, _, mask = self.of_copies(x, copies)
        drawn = noise.of_copies(x, copies)
        rows = repeat_rows(x, copies)
        return ball.uniform_start(rows, eps=eps, norm=norm, bounds=bounds, mask=mask, **drawn)

    def around_start(self, x: Tensor, start_eps: float | Tensor | None) -> Ball:
        """Return the ball of radius ``start_eps``, at most ``eps``, around ``x`` [N, ...]; None is ``eps`` itself."""
        eps = self.eps
        if start_eps is None:
            return self
        checks.radius("start_eps", start_eps, x)
        if isinstance(start_eps, Tensor):
            several = isinstance(eps, Tensor) and eps.dim() > 1
            start_eps = per_sample(start_eps, x) if several else start_eps
            return self._replace(eps=start_eps.clamp(max=eps))  # type: ignore[union-attr]
        if isinstance(eps, Tensor):
            return self._replace(eps=eps.clamp(max=start_eps))
        if start_eps > eps:
            raise ValueError(f"start_eps must be at most eps, {eps}, got {start_eps}")
        return self._replace(eps=start_eps)
