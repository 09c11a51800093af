"""The set that an attack searches: a ball around each image, cut by the box; and the points where it begins."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.ops import ball, checks


class Ball(NamedTuple):
    """Radius, norm, box and projection: the keywords that :func:`fastadv.project` and :func:`fastadv.pgd_step` share.

    eps: in the units of the images, a float or [N]. norm: "linf", "l2" or "l1". bounds: (low, high) or None.
    mode: "exact" or "sequential".
    """

    eps: float | Tensor
    norm: str = "linf"
    bounds: tuple[float, float] | None = (0.0, 1.0)
    mode: str = "exact"

    def of_copies(self, copies: int) -> Ball:
        """Return the same for ``copies`` rows an image."""
        return self if copies == 1 else self._replace(eps=repeat_rows(self.eps, copies))

    def clean_rows(self, x: Tensor, copies: int) -> Tensor:
        """Return ``copies`` copies of each image of ``x`` [N, ...], in the box: [N * copies, ...]."""
        x = repeat_rows(x, copies)
        return ball.project(x, x, **self.of_copies(copies)._asdict())

    def random_rows(self, x: Tensor, copies: int, noise: Noise) -> Tensor:
        """Draw ``copies`` points in the ball around each image of ``x`` [N, ...]: [N * copies, ...].

        They are uniform in the ball, then projected to the box, see :func:`fastadv.random_start`.
        """
        centre, eps = repeat_rows(x, copies), repeat_rows(self.eps, copies)
        drawn = noise.of_copies(x, copies)
        return ball.random_start(centre, eps=eps, norm=self.norm, bounds=self.bounds, **drawn)  # type: ignore[arg-type]

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
