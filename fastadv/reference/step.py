"""One ascent step: projected, with momentum, or towards the decision boundary."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, divisor, masked, per_sample, safe_norm, sample_dims
from fastadv.reference.ball import Bounds, project


def pgd_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mode: str = "exact",
    mask: Tensor | None = None,
) -> Tensor:
    """See :func:`fastadv.pgd_step`."""
    point = accumulate(x)
    moved = point + ascent(masked(accumulate(grad), mask, 0), per_sample(step_size, point), norm, l1_fraction)
    return project(moved, accumulate(x0), eps=eps, norm=norm, bounds=bounds, mode=mode, mask=mask).to(x.dtype)


def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    decay: float = 1.0,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`fastadv.momentum_step`."""
    point = accumulate(x)
    grad, momentum_so_far = (masked(accumulate(g), mask, 0) for g in (grad, momentum))
    gathered = decay * momentum_so_far + _over_mean_magnitude(grad)
    moved = point + ascent(gathered, per_sample(step_size, point), norm, l1_fraction)
    projected = project(moved, accumulate(x0), eps=eps, norm=norm, bounds=bounds, mask=mask)
    return projected.to(x.dtype), gathered.to(momentum.dtype)


def _over_mean_magnitude(grad: Tensor) -> Tensor:
    """``grad / mean |grad|`` of each sample, NaN taken for zero; zero where the mean is zero or infinite."""
    grad = torch.where(grad.isnan(), 0, grad)
    if grad.numel() == 0:
        return grad
    scaled = grad / divisor(grad)
    mean = scaled.abs().mean(sample_dims(grad), keepdim=True)
    return torch.where((mean > 0) & mean.isfinite(), scaled / mean, 0.0)


def bss_step(
    x: Tensor,
    grad: Tensor,
    gap: Tensor,
    active: Tensor,
    *,
    step_size: float | Tensor = 0.3,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """See :func:`fastadv.bss_step`."""
    low, high = bounds or (-math.inf, math.inf)
    point = accumulate(x)
    length = per_sample(step_size, point) * (per_sample(gap, point) + 1e-4)
    moved = (point + ascent(accumulate(grad), length, "l2")).clamp(low, high)
    return torch.where(active.view(-1, *[1] * (x.dim() - 1)), moved.to(x.dtype), x)


def ascent(direction: Tensor, step_size: float | Tensor, norm: str, l1_fraction: float = 0.05) -> Tensor:
    """The step of length ``step_size`` in ``norm`` along ``direction``; NaN moves nothing.

    The steepest of linf and l2; of l1 the largest coordinates, a fraction of all, share it equally.
    """
    if norm == "linf":
        return _by_sign(direction, step_size)
    if norm == "l1":
        chosen = _largest(direction, l1_fraction)
        count = chosen.to(direction.dtype).sum(sample_dims(direction), keepdim=True)
        return torch.where(chosen, _by_sign(direction, step_size / count), 0.0)
    length = safe_norm(direction)
    return torch.where((length > 0) & length.isfinite(), step_size * (direction / length), 0.0)


def _by_sign(direction: Tensor, step_size: float | Tensor) -> Tensor:
    """``step_size`` by the sign of ``direction``; where that is 0, nothing, not even of an infinite step."""
    return torch.where(direction.sign() == 0, 0.0, step_size * direction.sign())


def _largest(direction: Tensor, fraction: float) -> Tensor:
    """Which coordinates of each sample are not smaller than its ``ceil(fraction D)``-th largest magnitude, nor zero."""
    magnitude = direction.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf).abs()
    if magnitude.numel() == 0:
        return magnitude > 0
    flat = magnitude.flatten(1)
    least = flat.kthvalue(flat.shape[1] + 1 - math.ceil(fraction * flat.shape[1]), dim=1).values
    return (magnitude > 0) & (magnitude >= per_sample(least, magnitude))
