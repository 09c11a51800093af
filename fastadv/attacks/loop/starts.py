"""Where the rows of an attack begin: in the ball around each image, or at the image."""

from __future__ import annotations

from torch import Tensor

from fastadv.attacks.loop import seeds
from fastadv.attacks.loop.copies import copy_ids, repeat
from fastadv.ops import ball, checks


def check_noise(x: Tensor, seed: int | Tensor | None, sample_ids: Tensor | None) -> None:
    """``seed`` and ``sample_ids`` are what a random start of ``x`` [N, ...] takes, whether or not there is one."""
    if seed is not None:
        checks.seed(seed, x)
    if sample_ids is not None:
        checks.int64("sample_ids", sample_ids, [x.shape[0]], x)


def start_radius(x: Tensor, eps: float | Tensor, start_eps: float | Tensor | None) -> float | Tensor:
    """The radius that a random start is drawn from in the ball of radius ``eps`` around ``x`` [N, ...]."""
    if start_eps is None:
        return eps
    checks.radius("start_eps", start_eps, x)
    if isinstance(start_eps, Tensor):
        return start_eps.clamp(max=eps)
    if isinstance(eps, Tensor):
        return eps.clamp(max=start_eps)
    if start_eps > eps:
        raise ValueError(f"start_eps must be at most eps, {eps}, got {start_eps}")
    return start_eps


def random_rows(
    x: Tensor,
    copies: int,
    *,
    eps: float | Tensor,
    norm: str,
    bounds: tuple[float, float] | None,
    seed: int | Tensor | None,
    sample_ids: Tensor | None,
) -> Tensor:
    """:func:`fastadv.random_start` of ``copies`` copies of each image of ``x`` [N, ...]: [N * copies, ...]."""
    return ball.random_start(
        repeat(x, copies),
        eps=repeat(eps, copies),
        norm=norm,
        bounds=bounds,
        seed=seeds.resolve(seed),
        sample_ids=copy_ids(x, copies, sample_ids),
    )


def clean_rows(
    x: Tensor, copies: int, *, eps: float | Tensor, norm: str, bounds: tuple[float, float] | None, mode: str
) -> Tensor:
    """``copies`` copies of each image of ``x`` [N, ...], in the box: [N * copies, ...]."""
    x = repeat(x, copies)
    return ball.project(x, x, eps=repeat(eps, copies), norm=norm, bounds=bounds, mode=mode)
