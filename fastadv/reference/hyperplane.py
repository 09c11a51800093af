"""The nearest point of a hyperplane within a box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.reference._common import divisor, per_sample

# Newton on a concave, piecewise linear function rises to the root, each pass at least to the next breakpoint.
PASSES = 24


def project_hyperplane(
    x: Tensor,
    normal: Tensor,
    offset: Tensor,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    norm: str = "linf",
) -> Tensor:
    """See :func:`fastadv.project_hyperplane`."""
    low, high = bounds or (-math.inf, math.inf)
    # The gap is a difference of sums near each other, which float32 would not resolve.
    point = x.double().flatten(1).clamp(low, high)
    normal = normal.double().flatten(1)
    if point.numel() == 0:
        return x.clone()
    scale = divisor(normal)
    normal = normal / scale
    gap = (normal * point).sum(1, keepdim=True) - per_sample(offset, point) / scale
    # Whatever side the point lies on: how much normal . z has to fall, and how far each coordinate can go for that.
    weight = normal.abs()
    downhill = -(normal * gap).sign()
    room = torch.where(downhill < 0, point - low, high - point).masked_fill(downhill == 0, 0)
    length = _LENGTHS[norm](weight, room, gap.abs())
    known = gap.isfinite() & normal.isfinite().all(1, keepdim=True)
    moved = (point + downhill * length).clamp(low, high)
    return torch.where(known, moved, point).view(x.shape).to(x.dtype)


def _linf(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    return _travel(weight, (weight > 0).to(weight.dtype), room, gap)


def _l2(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    return _travel(weight, weight, room, gap)


def _travel(weight: Tensor, speed: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """``min(t speed, room)`` for the t at which ``sum weight min(t speed, room)`` is the gap; the room where none is.

    Concave and piecewise linear in t: from the left Newton rises to the root, to which it leads exactly as soon as no
    coordinate comes to its end on the way.
    """
    t = torch.zeros_like(gap)
    for _ in range(PASSES):
        free = t * speed < room
        slope = torch.where(free, weight * speed, 0).sum(1, keepdim=True)
        spent = torch.where(free, 0, weight * room).sum(1, keepdim=True)
        t = torch.maximum(t, torch.where(slope > 0, (gap - spent) / slope, math.inf))
    return torch.where(speed > 0, torch.minimum(t * speed, room), 0)


def _l1(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """All of the room from the largest weight down until the gap is closed, at the last weight what is missing.

    Coordinates of that very weight go the same share of their rooms, or equally far where rooms are endless.
    """
    gain = torch.where(weight > 0, weight * room, 0)
    order = weight.argsort(1, descending=True)
    open_after = (gain.gather(1, order).cumsum(1) < gap).sum(1, keepdim=True)
    least = weight.gather(1, order).gather(1, open_after.clamp(max=weight.shape[1] - 1))
    missing = gap - torch.where(weight > least, gain, 0).sum(1, keepdim=True)
    last = (weight == least) & (weight > 0)
    endless = last & room.isinf()
    count = endless.sum(1, keepdim=True)
    share = (missing / torch.where(last, gain, 0).sum(1, keepdim=True)).clamp(0, 1).nan_to_num(nan=0.0)
    some = torch.where(count > 0, torch.where(endless, missing / (least * count), 0), share * room)
    return torch.where(weight > least, room, torch.where(last, some, 0))


_LENGTHS = {"linf": _linf, "l2": _l2, "l1": _l1}
