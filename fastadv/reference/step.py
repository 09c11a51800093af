"""One projected ascent step."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, per_sample, safe_norm
from fastadv.reference.ball import project


def pgd_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Tensor:
    """See :func:`fastadv.pgd_step`."""
    point = accumulate(x)
    moved = point + ascent(accumulate(grad), per_sample(step_size, point), norm)
    return project(moved, accumulate(x0), eps=eps, norm=norm, bounds=bounds, mode=mode).to(x.dtype)


def ascent(direction: Tensor, step_size: float | Tensor, norm: str) -> Tensor:
    """The step of length ``step_size`` along ``direction`` that is steepest for ``norm``; NaN moves nothing."""
    if norm == "linf":
        return step_size * direction.sign()
    length = safe_norm(direction)
    return torch.where((length > 0) & length.isfinite(), step_size * (direction / length), 0.0)
