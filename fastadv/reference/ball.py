"""Projection onto norm ball and box, and uniform random starts in the ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, per_sample, safe_norm, sample_dims
from fastadv.reference.philox import philox

# Newton on a concave, piecewise linear function: each pass is monotone and feasible, so stopping early is safe.
NEWTON_PASSES = 10
# The counter block that holds a sample's radius; elements never reach it.
RADIUS_BLOCK = (1 << 62) - 1


def project(
    x: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Tensor:
    """See :func:`fastadv.project`."""
    low, high = bounds or (-math.inf, math.inf)
    centre, point = accumulate(x0), accumulate(x)
    radius = per_sample(eps, point)
    if norm == "linf":
        projected = _project_linf(point, centre, radius, low, high, mode)
    else:
        projected = _project_l2(point, centre, radius, low, high, mode)
    return projected.to(x.dtype)


def _project_linf(x: Tensor, x0: Tensor, eps: float | Tensor, low: float, high: float, mode: str) -> Tensor:
    if mode == "sequential":
        return (x0 + (x - x0).clamp(-eps, eps)).clamp(low, high)  # type: ignore[arg-type]
    # Of two intervals that meet, clamping to one, then the other projects onto both; where they do not, the box wins.
    return torch.minimum(torch.maximum(x, x0 - eps), x0 + eps).clamp(low, high)


def _project_l2(x: Tensor, x0: Tensor, eps: float | Tensor, low: float, high: float, mode: str) -> Tensor:
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    if mode == "sequential":
        delta = x - x0
        norm = safe_norm(delta)
        return shrink(x, x0, delta, torch.where(norm > radius, radius / norm, 1.0)).clamp(low, high)
    return shrink(x, x0, x - x0, _l2_scale(x - x0, x0, radius, low, high)).clamp(low, high)


def shrink(x: Tensor, x0: Tensor, delta: Tensor, scale: Tensor) -> Tensor:
    """``x0 + scale * delta`` rounded towards ``x0``, so that rounding never leaves the ball; ``x`` where scale is 1."""
    step = scale * delta
    moved = x0 + step
    moved = torch.where((moved - x0).abs() > step.abs(), torch.nextafter(moved, x0), moved)
    return torch.where(scale < 1, moved, x)


def _l2_scale(delta: Tensor, x0: Tensor, eps: Tensor, low: float, high: float) -> Tensor:
    """The s in [0, 1] for which ``clamp(x0 + s delta, low, high)`` lies at distance eps from x0; 1 inside the ball.

    In t = s**2 the squared distance is concave and piecewise linear: t A + B, with A the sum of delta**2 over the
    coordinates still inside the box and B the squared distance of those the box stopped. Newton from the left
    (t = eps**2 / |delta|**2, where the box stops nothing more) rises monotonically to the root.
    """
    dims = sample_dims(delta)
    below, above = low - x0, high - x0
    scale = torch.where(safe_norm(torch.clamp(delta, below, above)) > eps, eps / safe_norm(delta), 1.0)
    for _ in range(NEWTON_PASSES):
        step = scale * delta
        stopped = (step < below) | (step > above)
        free = torch.where(stopped, 0, delta).square().sum(dims, keepdim=True)
        fixed = torch.where(stopped, torch.where(step < 0, below, above), 0).square().sum(dims, keepdim=True)
        root = ((eps * eps - fixed).clamp(min=0) / free).sqrt()
        scale = torch.where((free > 0) & (scale < 1), torch.maximum(scale, root.clamp(max=1)), scale)
    return scale


def random_start(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int | Tensor = 0,
    sample_ids: Tensor | None = None,
) -> Tensor:
    """See :func:`fastadv.random_start`."""
    low, high = bounds or (-math.inf, math.inf)
    centre = accumulate(x0)
    samples, elements = x0.shape[0], x0[0:1].numel()
    if not isinstance(seed, Tensor):
        seed = torch.tensor(seed, dtype=torch.int64, device=x0.device)
    if sample_ids is None:
        sample_ids = torch.arange(samples, device=x0.device)
    blocks = torch.arange((elements + 3) // 4, device=x0.device)
    words = philox(seed, blocks, sample_ids).flatten(1)
    radius = per_sample(eps, centre)
    if norm == "linf":
        unit = _symmetric(words[:, :elements], centre.dtype).view(x0.shape)
        return (centre + radius * unit).clamp(low, high).to(x0.dtype)
    direction = _normal(words, centre.dtype)[:, :elements].reshape(x0.shape)
    last = philox(seed, torch.tensor([RADIUS_BLOCK], device=x0.device), sample_ids)[:, 0, 0]
    length = _positive(last, centre.dtype).pow(1 / max(elements, 1)).view(-1, *[1] * (x0.dim() - 1))
    delta = direction * (radius * length / safe_norm(direction))
    moved = centre + delta
    moved = torch.where((moved - centre).abs() > delta.abs(), torch.nextafter(moved, centre), moved)
    return moved.clamp(low, high).to(x0.dtype)


def _symmetric(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform in [-1, 1), a multiple of 2**-23, exact in float32."""
    return (words >> 8).to(dtype) * 2.0**-23 - 1


def _positive(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform in (0, 1], a multiple of 2**-24, exact in float32."""
    return ((words >> 8) + 1).to(dtype) * 2.0**-24


def _normal(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard normal deviates by Box and Muller: words 2k and 2k + 1 give deviates 2k (cosine) and 2k + 1 (sine)."""
    radius = (-2 * _positive(words[:, 0::2], dtype).log()).sqrt()
    angle = 2 * math.pi * _positive(words[:, 1::2], dtype)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
