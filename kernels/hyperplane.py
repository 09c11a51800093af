"""The nearest point of a hyperplane within a box: project_hyperplane.

A program a sample reads x and the normal once a pass, 2 x itemsize bytes an element from its caches, and writes the
result once: a handful of passes for linf and l2, one a bit of a weight for l1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import L1, L2
from fastadv.kernels.launch import block, launch
from fastadv.kernels.numerics import bits, clamp, divide, narrow, scalar, widen

# Newton on a concave, piecewise linear function rises to the root, each pass at least to the next breakpoint.
_PASSES = tl.constexpr(24)


def project_hyperplane(x: Tensor, normal: Tensor, offset: Tensor, norm: int, low: float, high: float) -> Tensor:
    """Launcher of :func:`fastadv.project_hyperplane`."""
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    elements = x.numel() // x.shape[0]
    columns = block(elements, x)
    arguments = (normal, offset, out, low, high, elements)
    launch(onto_planes, x.shape[0], x, *arguments, elements=columns, NORM=norm, BLOCK=columns)
    return out


@triton.jit
def onto_planes(
    x_ptr,
    normal_ptr,
    offset_ptr,
    out_ptr,
    low: tl.float64,
    high: tl.float64,
    elements,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    x_ptr += sample * elements
    normal_ptr += sample * elements
    out_ptr += sample * elements
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    largest = zeros
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        normal = widen(tl.load(normal_ptr + column, column < elements, other=0.0))
        largest = tl.maximum(largest, tl.abs(normal))
    most = tl.max(largest, 0)
    scale = tl.where((most > 0) & (most < float("inf")), most, 1.0)
    # The gap is a difference of sums near each other.
    sums = zeros.to(tl.float64)
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        mask = column < elements
        normal = divide(widen(tl.load(normal_ptr + column, mask, other=0.0)), scale)
        point = clamp(widen(tl.load(x_ptr + column, mask, other=0.0)), scalar(low, zeros), scalar(high, zeros))
        sums += tl.where(mask, normal.to(tl.float64) * point.to(tl.float64), 0.0)
    wide_gap = tl.sum(sums, 0) - tl.load(offset_ptr + sample).to(tl.float64) / scale.to(tl.float64)
    # A gap of NaN or infinity asks for nothing.
    wide_gap = tl.where(tl.abs(wide_gap) < float("inf"), wide_gap, 0.0)
    gap = wide_gap.to(zeros.dtype)
    far = tl.abs(gap)

    time = far * 0.0
    least = far * 0.0
    missing = far * 0.0
    share = far * 0.0
    endless = far * 0.0
    if NORM == L1:
        least = _least(x_ptr, normal_ptr, scale, wide_gap, low, high, elements, zeros, BLOCK)
        above, last, without_end = zeros.to(tl.float64), zeros, zeros
        for start in range(0, elements, BLOCK):
            _, weight, room, _ = _legs(x_ptr, normal_ptr, start, scale, gap, low, high, elements, zeros, BLOCK)
            gain = tl.where(weight > 0, weight * room, 0.0)
            at_last = (weight == least) & (weight > 0)
            above += tl.where(weight > least, gain, 0.0).to(tl.float64)
            last += tl.where(at_last, gain, 0.0)
            without_end += tl.where(at_last & (room == float("inf")), 1.0, 0.0)
        missing = (tl.abs(wide_gap) - tl.sum(above, 0)).to(zeros.dtype)
        endless = tl.sum(without_end, 0)
        total = tl.sum(last, 0)
        share = divide(missing, tl.where(total > 0, total, 1.0))
        share = tl.minimum(tl.maximum(share, 0.0), 1.0)
    else:
        running = far > 0
        for _turn in range(_PASSES):
            if running:
                slope, spent = zeros, zeros
                for start in range(0, elements, BLOCK):
                    _, weight, room, _ = _legs(x_ptr, normal_ptr, start, scale, gap, low, high, elements, zeros, BLOCK)
                    speed = _speed(weight, NORM)
                    free = time * speed < room
                    slope += tl.where(free, weight * speed, 0.0)
                    spent += tl.where(free, 0.0, weight * room)
                steep = tl.sum(slope, 0)
                arrival = divide(far - tl.sum(spent, 0), tl.where(steep > 0, steep, 1.0))
                arrival = tl.where(steep > 0, arrival, float("inf"))
                running = arrival > time
                time = tl.where(running, arrival, time)

    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        point, weight, room, direction = _legs(x_ptr, normal_ptr, start, scale, gap, low, high, elements, zeros, BLOCK)
        if NORM == L1:
            even = divide(missing, tl.where(endless > 0, least * endless, 1.0))
            some = tl.where(endless > 0, tl.where(room == float("inf"), even, 0.0), share * room)
            length = tl.where(weight > least, room, tl.where((weight == least) & (weight > 0), some, 0.0))
        else:
            speed = _speed(weight, NORM)
            length = tl.where(speed > 0, tl.minimum(time * speed, room), 0.0)
        length = tl.where(far > 0, length, 0.0)
        moved = clamp(point + direction * length, scalar(low, zeros), scalar(high, zeros))
        tl.store(out_ptr + column, narrow(moved, out_ptr.dtype.element_ty), column < elements)


@triton.jit
def _legs(x_ptr, normal_ptr, start, scale, gap, low, high, elements, like, BLOCK: tl.constexpr):
    """Point inside the box, weight, room and direction of each coordinate from ``start`` on; zeros beyond the end."""
    column = start + tl.arange(0, BLOCK)
    mask = column < elements
    lowest, highest = scalar(low, like), scalar(high, like)
    normal = divide(widen(tl.load(normal_ptr + column, mask, other=0.0)), scale)
    point = clamp(widen(tl.load(x_ptr + column, mask, other=0.0)), lowest, highest)
    slope = tl.where(gap > 0, normal, -normal)
    falls, rises = slope > 0, slope < 0
    room = tl.where(falls, point - lowest, tl.where(rises, highest - point, 0.0))
    direction = rises.to(like.dtype) - falls.to(like.dtype)
    return point, tl.abs(normal), room, direction


@triton.jit
def _speed(weight, NORM: tl.constexpr):
    """Distance that a coordinate goes in a unit of time: for linf 1, for l2 its weight."""
    if NORM == L2:
        return weight
    else:
        return (weight > 0).to(weight.dtype)


@triton.jit
def _least(x_ptr, normal_ptr, scale, gap, low, high, elements, like, BLOCK: tl.constexpr):
    """Return the largest weight of which all coordinates from it on close the gap, found bit by bit; 0 where none does.

    Weights are at most 1, so the bits above that of 1 are never tried.
    """
    far = tl.abs(gap)
    one = bits(tl.full((), 1.0, like.dtype))
    found = one * 0
    bit = one * 0 + (1 << 29 if like.dtype == tl.float32 else 1 << 61)
    while bit > 0:
        least = (found | bit).to(like.dtype, bitcast=True)
        gain = like.to(tl.float64)
        for start in range(0, elements, BLOCK):
            _, weight, room, _ = _legs(x_ptr, normal_ptr, start, scale, gap, low, high, elements, like, BLOCK)
            gain += tl.where((weight >= least) & (weight > 0), weight * room, 0.0).to(tl.float64)
        closes = (tl.sum(gain, 0) >= far) & ((found | bit) <= one)
        found = tl.where(closes, found | bit, found)
        bit = bit >> 1
    return found.to(like.dtype, bitcast=True)
