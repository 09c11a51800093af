"""Projection onto norm ball and box, and uniform random starts in the ball."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, masked, per_sample, safe_norm
from fastadv.reference.philox import philox

# A float, or for linf a tensor that broadcasts to the samples.
Bounds = tuple[float | Tensor, float | Tensor] | None

# After so many halvings a scale has all the digits of its dtype, from however small a number it was sought.
HALVINGS = {torch.float32: 36, torch.float64: 64}
# The counter block that holds a sample's radius; elements never reach it.
RADIUS_BLOCK = (1 << 62) - 1


def project(
    x: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    mode: str = "exact",
    mask: Tensor | None = None,
) -> Tensor:
    """See :func:`fastadv.project`."""
    centre, point = accumulate(x0), accumulate(x)
    point = masked(point, mask, centre)
    low, high = box(bounds, point)
    radius = per_sample(eps, point)
    return _PROJECTIONS[norm](point, centre, radius, low, high, mode).to(x.dtype)


def box(bounds: Bounds, x: Tensor) -> tuple[Any, Any]:
    """Both bounds as numbers, or as tensors where one of them is."""
    low, high = bounds or (-math.inf, math.inf)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return torch.as_tensor(low, dtype=x.dtype).to(x), torch.as_tensor(high, dtype=x.dtype).to(x)
    return low, high


def _project_linf(x: Tensor, x0: Tensor, eps: float | Tensor, low: float, high: float, mode: str) -> Tensor:
    if mode == "sequential":
        return (x0 + (x - x0).clamp(-eps, eps)).clamp(low, high)  # type: ignore[arg-type]
    # Of two intervals that meet, clamping to one, then the other projects onto both; where they do not, the box wins.
    return torch.minimum(torch.maximum(x, x0 - eps), x0 + eps).clamp(low, high)


def _project_l2(x: Tensor, x0: Tensor, eps: float | Tensor, low: float, high: float, mode: str) -> Tensor:
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    delta = x - x0
    if mode == "sequential":
        norm = safe_norm(delta)
        scale = torch.where(norm > radius, radius / norm, 1.0)
    else:
        scale = _l2_scale(delta, x0, radius, low, high)
    # No point lies outside of a ball whose radius is NaN, nor inside.
    return torch.where(radius.isnan(), radius, shrink(x, x0, delta, scale).clamp(low, high))


def shrink(x: Tensor, x0: Tensor, delta: Tensor, scale: Tensor) -> Tensor:
    """``x0 + scale * delta``, rounded so that it never leaves the ball; ``x`` where scale is 1."""
    return torch.where(scale < 1, move_inside(x0, scale * delta), x)


def move_inside(x0: Tensor, step: Tensor) -> Tensor:
    """``x0 + step`` rounded towards ``x0``."""
    moved = x0 + step
    return torch.where((moved - x0).abs() > step.abs(), torch.nextafter(moved, x0), moved)


def _l2_scale(delta: Tensor, x0: Tensor, eps: Tensor, low: float, high: float) -> Tensor:
    """The largest s in [0, 1] for which ``clamp(x0 + s delta, low, high)`` lies within eps of x0, by bisection.

    The distance never falls as s grows, and at ``s = eps / |delta|`` the box can only have made it less than eps. From
    there on the bracket is halved on a logarithmic scale: s may be tiny.
    """
    below, above = (torch.as_tensor(bound - x0).double() for bound in (low, high))
    wide, radius = delta.double(), eps.double()
    least = radius / safe_norm(wide)
    far = torch.ones_like(least)
    near = torch.where(safe_norm(wide.clamp(below, above)) > radius, least, far)
    for _ in range(HALVINGS[delta.dtype]):
        middle = near.sqrt() * far.sqrt()
        outside = safe_norm((middle * wide).clamp(below, above)) > radius
        near, far = torch.where(outside, near, middle), torch.where(outside, middle, far)
    return near.to(delta.dtype)


def _project_l1(x: Tensor, x0: Tensor, eps: float | Tensor, low: float, high: float, mode: str) -> Tensor:
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    delta = x.double() - x0.double()
    box = (low, high) if mode == "exact" else (-math.inf, math.inf)
    threshold = _l1_threshold(delta, x0.double(), radius.double(), *box)
    step = delta.sign() * (delta.abs() - threshold).clamp(min=0)
    projected = torch.where(threshold > 0, move_inside(x0, step.to(x.dtype)), x).clamp(low, high)
    return torch.where(radius.isnan(), radius, projected)


def _l1_threshold(delta: Tensor, x0: Tensor, eps: Tensor, low: float, high: float) -> Tensor:
    """The t >= 0 for which the z below lies at distance eps from x0; 0 where x, clipped to the box, is no farther.

    ``z = clamp(x0 + sign(delta) max(|delta| - t, 0), low, high)`` minimises ``|z - x|^2 / 2 + t |z - x0|_1`` over the
    box. As t grows, the distance of a coordinate first stays, then falls with t, then stays again, so the sum of all is
    piecewise linear with two breakpoints a coordinate. It is added up over the sorted breakpoints from the last one
    down, where no difference loses digits, to the piece that leads into the ball.
    """
    if delta[0:1].numel() == 0:
        return eps
    shape = (-1, *[1] * (delta.dim() - 1))
    delta, x0, eps = delta.flatten(1), x0.flatten(1), eps.view(-1, 1)
    length, below, above = delta.abs(), low - x0, high - x0
    ahead, behind = torch.where(delta < 0, -below, above), torch.where(delta < 0, -above, below)
    falls_from, falls_to = (length - ahead).clamp(min=0), (length - behind.clamp(min=0)).clamp(min=0)
    moves = falls_from < falls_to
    points, order = torch.cat((falls_from, falls_to), 1).masked_fill(~moves.repeat(1, 2), 0).sort(1, descending=True)
    moving = torch.cat((-moves.double(), moves.double()), 1).gather(1, order).cumsum(1)
    farthest = torch.zeros_like(delta).clamp(below, above).abs().sum(1, keepdim=True)
    falls = moving[:, :-1] * (points[:, :-1] - points[:, 1:])
    distances = torch.cat((farthest, farthest + falls.cumsum(1)), 1)
    inside = (distances <= eps).sum(1, keepdim=True) - 1
    point, slope, distance = (values.gather(1, inside.clamp(min=0)) for values in (points, moving, distances))
    # Where x0 lies outside of the box, not even the last point may be in the ball: the box wins.
    root = torch.where(inside < 0, length.amax(1, keepdim=True), point - (eps - distance) / slope)
    outside = (delta.clamp(below, above).abs().sum(1, keepdim=True) > eps) & (distances[:, -1:] > eps)
    return torch.where(outside, root, 0.0).view(shape)


_PROJECTIONS = {"linf": _project_linf, "l2": _project_l2, "l1": _project_l1}


def random_start(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    seed: int | Tensor = 0,
    sample_ids: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """See :func:`fastadv.random_start`."""
    centre = accumulate(x0)
    low, high = box(bounds, centre)
    samples, elements = x0.shape[0], x0[0:1].numel()
    if not isinstance(seed, Tensor):
        seed = torch.full((), seed, dtype=torch.int64, device=x0.device)
    if sample_ids is None:
        sample_ids = torch.arange(samples, device=x0.device)
    blocks = torch.arange((elements + 3) // 4, device=x0.device)
    words = philox(seed, blocks, sample_ids).flatten(1)
    radius = per_sample(eps, centre)
    if norm == "linf":
        unit = _symmetric(words[:, :elements], centre.dtype).view(x0.shape)
        return masked((centre + radius * unit).clamp(low, high), mask, centre).to(x0.dtype)
    last = philox(seed, torch.full([1], RADIUS_BLOCK, dtype=torch.int64, device=x0.device), sample_ids)[:, :1, 0]
    delta = _IN_BALL[norm](words, last, elements, centre.dtype).view(x0.shape)
    return masked(move_inside(centre, radius * delta).clamp(low, high), mask, centre).to(x0.dtype)


def _in_l2_ball(words: Tensor, last: Tensor, elements: int, dtype: torch.dtype) -> Tensor:
    """[N, elements] uniform in the unit ball: a normal direction, and the root of a uniform number for its length."""
    direction = _normal(words, dtype)[:, :elements]
    length = safe_norm(direction)
    root = _positive(last, dtype).pow(1 / max(elements, 1))
    return direction * torch.where(length > 0, root / length, 0.0)


def _in_l1_ball(words: Tensor, last: Tensor, elements: int, dtype: torch.dtype) -> Tensor:
    """[N, elements] uniform in the unit ball: exponential deviates by the sum of them and of one more, signs at random.

    A word gives both: its upper 24 bits the deviate, its lowest bit the sign.
    """
    deviates = -_positive(words[:, :elements], dtype).log()
    total = deviates.sum(1, keepdim=True) - _positive(last, dtype).log()
    return torch.where(words[:, :elements] & 1 == 1, -deviates, deviates) / torch.where(total > 0, total, 1.0)


_IN_BALL = {"l2": _in_l2_ball, "l1": _in_l1_ball}


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
