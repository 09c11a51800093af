"""Random windows of a perturbation: square_propose.

A program a sample. linf reads and writes the image once, 3 x itemsize bytes an element. l2 and l1 sum it up before, and
for each channel what lies in its windows, twice, which a program finds in its caches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.ball import _identity
from fastadv.kernels.geometry import L2, LINF, project_linf
from fastadv.kernels.launch import block, channels_last, launch
from fastadv.kernels.numerics import clamp, divide, narrow, per_sample, scalar, square_root, widen
from fastadv.kernels.parts import check_places
from fastadv.kernels.philox import philox

# A query has 2^16 counter blocks.
_QUERY_SHIFT = tl.constexpr(16)


def square_propose(
    x: Tensor,
    x0: Tensor,
    query: Tensor,
    level: Tensor,
    sides: Tensor,
    eps: float,
    norm: int,
    low: float,
    high: float,
    seed: int,
    bumps: Tensor | None,
    eps_n: Tensor | None,
    seed_t: Tensor | None,
    sample_ids: Tensor | None,
) -> Tensor:
    """Launcher of :func:`fastadv.square_propose`."""
    samples, channels, height, width = x.shape
    check_places(channels * height * width)
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    columns = min(block(height * width, x), 512)
    widest = 0 if bumps is None else bumps.shape[1]
    where = (query, level, sides, bumps, len(sides), widest, eps, eps_n, low, high, seed, seed_t, sample_ids)
    constants = {"CHANNELS_LAST": channels_last(x), "NORM": norm, "BLOCK": columns}
    # Where an element lies in both windows takes as many registers as the element itself.
    elements = 2 * columns
    launch(windows, samples, x, x0, out, *where, channels, height, width, 1 / channels, elements=elements, **constants)
    return out


@triton.jit(do_not_specialize=["seed"])
def windows(
    x_ptr,
    x0_ptr,
    out_ptr,
    queries,
    levels,
    sides,
    bumps,
    level_count,
    widest,
    eps: tl.float64,
    eps_ptr,
    low: tl.float64,
    high: tl.float64,
    seed: tl.int64,
    seed_ptr,
    sample_ids,
    channels,
    height,
    width,
    inverse_channels: tl.float64,
    CHANNELS_LAST: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    pixels = height * width
    first = sample * channels * pixels
    key, sample_id = _identity(seed, seed_ptr, sample_ids, sample)
    counter = tl.load(queries + sample) << _QUERY_SHIFT
    level = tl.minimum(tl.maximum(tl.load(levels + sample), 0), level_count - 1)
    # A side that fits neither image nor bump counts as the nearest that does.
    most = tl.minimum(height, width) if bumps is None else tl.minimum(tl.minimum(height, width), widest)
    side = tl.minimum(tl.maximum(tl.load(sides + level), 1), most).to(tl.int32)
    a, b, c, d = philox(key, counter, sample_id)
    top, left = _place(a, height, side), _place(b, width, side)
    other_top, other_left = _place(c, height, side), _place(d, width, side)
    turned = (a & 1) == 1
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    radius = per_sample(eps, eps_ptr, sample, None, zeros)
    lowest, highest = scalar(low, zeros), scalar(high, zeros)
    whole = tl.sum(zeros, 0)
    if NORM != LINF:
        terms = zeros
        for start in range(0, channels * pixels, BLOCK):
            element = start + tl.arange(0, BLOCK)
            mask = element < channels * pixels
            point = widen(tl.load(x_ptr + first + element, mask, other=0.0))
            terms += _term(point - widen(tl.load(x0_ptr + first + element, mask, other=0.0)), NORM)
        whole = _norm(tl.sum(terms, 0), NORM)
    for channel in range(0, channels):
        sign = _sign(key, counter, sample_id, channel, zeros)
        over = tl.sum(zeros, 0)
        stretch = tl.sum(zeros, 0)
        if NORM != LINF:
            inside_terms, both_terms = zeros, zeros
            for start in range(0, pixels, BLOCK):
                pixel = start + tl.arange(0, BLOCK)
                offset = first + _memory_offset(channel, pixel, channels, pixels, CHANNELS_LAST)
                inside = _holds(pixel, width, pixels, top, left, side)
                other = _holds(pixel, width, pixels, other_top, other_left, side)
                delta = _delta(x_ptr, x0_ptr, offset, pixel < pixels)
                inside_terms += tl.where(inside, _term(delta, NORM), 0.0)
                both_terms += tl.where(inside | other, _term(delta, NORM), 0.0)
            over = _norm(tl.sum(inside_terms, 0), NORM) + 1e-12
            spent = _norm(tl.sum(both_terms, 0), NORM)
            patch_terms = zeros
            for start in range(0, pixels, BLOCK):
                pixel = start + tl.arange(0, BLOCK)
                offset = first + _memory_offset(channel, pixel, channels, pixels, CHANNELS_LAST)
                inside = _holds(pixel, width, pixels, top, left, side)
                delta = _delta(x_ptr, x0_ptr, offset, pixel < pixels)
                bump = _bump(bumps, level, widest, pixel, width, top, left, turned, inside)
                patch_terms += tl.where(inside, _term(sign * bump + divide(delta, over), NORM), 0.0)
            share = scalar(inverse_channels, zeros)
            if NORM == L2:
                squares = (radius * radius - whole * whole) * share + spent * spent
                wanted = square_root(tl.maximum(squares, 0.0))
            else:
                wanted = (tl.maximum(radius - whole, 0.0) * share + spent) * channels
            stretch = divide(wanted, _norm(tl.sum(patch_terms, 0), NORM) + 1e-12)
        for start in range(0, pixels, BLOCK):
            pixel = start + tl.arange(0, BLOCK)
            mask = pixel < pixels
            offset = first + _memory_offset(channel, pixel, channels, pixels, CHANNELS_LAST)
            inside = _holds(pixel, width, pixels, top, left, side)
            point, centre = widen(tl.load(x_ptr + offset, mask)), widen(tl.load(x0_ptr + offset, mask))
            if NORM == LINF:
                moved = project_linf(point + 2 * radius * sign, centre, radius, lowest, highest, True)
                kept = point
            else:
                bump = _bump(bumps, level, widest, pixel, width, top, left, turned, inside)
                moved = centre + (sign * bump + divide(point - centre, over)) * stretch
                if NORM == L2:
                    moved = clamp(moved, lowest, highest)
                kept = tl.where(_holds(pixel, width, pixels, other_top, other_left, side), centre, point)
            tl.store(out_ptr + offset, narrow(tl.where(inside, moved, kept), out_ptr.dtype.element_ty), mask)


@triton.jit
def _place(word, extent, side):
    """Return where a window of ``side`` begins in ``extent`` pixels, as ``word`` says; never at the far edge."""
    return ((word.to(tl.int64) & 0xFFFFFFFF) * (extent - side) >> 32).to(tl.int32)


@triton.jit
def _holds(pixel, width, pixels, top, left, side):
    """Mask of the pixels of a channel that lie in a window."""
    row, column = pixel // width - top, pixel % width - left
    return (row >= 0) & (row < side) & (column >= 0) & (column < side) & (pixel < pixels)


@triton.jit
def _bump(bumps, level, widest, pixel, width, top, left, turned, inside):
    """Entries of the bump of ``level`` at the pixels of the window."""
    down, across = pixel // width - top, pixel % width - left
    row, column = tl.where(turned, across, down), tl.where(turned, down, across)
    return tl.load(bumps + (level * widest + row) * widest + column, inside, other=0.0)


@triton.jit
def _sign(key, counter, sample_id, channel, like):
    """Return 1 or -1 for a channel."""
    # A counter block has the signs of 128 channels.
    a, b, c, d = philox(key, counter + 1 + channel // 128, sample_id)
    which = channel % 128 // 32
    word = tl.where(which == 0, a, tl.where(which == 1, b, tl.where(which == 2, c, d)))
    return 1 - 2 * ((word >> (channel % 32)) & 1).to(tl.int32).to(like.dtype)


@triton.jit
def _memory_offset(channel, pixel, channels, pixels, CHANNELS_LAST: tl.constexpr):
    if CHANNELS_LAST:
        return pixel * channels + channel
    else:
        return channel * pixels + pixel


@triton.jit
def _delta(x_ptr, x0_ptr, offset, mask):
    return widen(tl.load(x_ptr + offset, mask, other=0.0)) - widen(tl.load(x0_ptr + offset, mask, other=0.0))


@triton.jit
def _term(x, NORM: tl.constexpr):
    """Terms of an l2 or l1 norm, before its root."""
    if NORM == L2:
        return x * x
    else:
        return tl.abs(x)


@triton.jit
def _norm(total, NORM: tl.constexpr):
    if NORM == L2:
        return square_root(total)
    else:
        return total
