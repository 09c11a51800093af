"""Projection onto norm ball and box, and uniform random starts: project and random_start.

``project`` is a step without a direction: see :mod:`fastadv.kernels.move`.

``random_start`` reads x0 and writes the result, 2 x itemsize bytes an element; the noise never touches memory. linf: a
program a (sample, block of elements). l2 and l1: a program a sample, which draws the noise twice, for its norm and to
write.
Elements are numbered in logical NCHW order, four to a counter, wherever the layout puts them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import L2, LINF, SIGN, move_inside
from fastadv.kernels.launch import block, channels_last, launch
from fastadv.kernels.move import move
from fastadv.kernels.numerics import clamp, divide, narrow, per_sample, scalar, square_root, widen
from fastadv.kernels.parts import keep_sums, own_part, parts_of, room_for_sums, sum_of_parts
from fastadv.kernels.philox import interleave, normal_pair, philox, positive, signed_exponential, symmetric

# The Philox block that holds a sample's radius; elements never reach it.
_RADIUS_BLOCK = tl.constexpr((1 << 62) - 1)


def project(
    x: Tensor, x0: Tensor, eps: float, norm: int, low: float, high: float, exact: bool, eps_n: Tensor | None
) -> Tensor:
    """Launcher of :func:`fastadv.project`."""
    out = torch.empty_like(x)
    move(x, None, x0, out, eps, eps_n, 0.0, None, norm, low, high, ascent=SIGN.value, exact=exact)
    return out


def random_start(
    x0: Tensor,
    eps: float,
    norm: int,
    low: float,
    high: float,
    seed: int,
    eps_n: Tensor | None,
    seed_t: Tensor | None,
    sample_ids: Tensor | None,
) -> Tensor:
    """Launcher of :func:`fastadv.random_start`."""
    out = torch.empty_like(x0)
    if x0.numel() == 0:
        return out
    elements = x0.numel() // x0.shape[0]
    # Channels between two neighbours in memory: 1 where the layout is the logical order.
    channels = x0.shape[1] if channels_last(x0) else 1
    columns = max(block(elements, x0), 4)
    ball, noise = (eps, eps_n, low, high), (seed, seed_t, sample_ids)
    tile = {"elements": columns, "BLOCK": columns // 4}
    in_memory = {"CHANNELS_LAST": channels > 1, **tile}
    if norm == LINF.value:
        blocks = triton.cdiv(elements, columns)
        launch(linf_starts, x0.shape[0] * blocks, x0, out, *ball, *noise, elements, channels, blocks, **in_memory)
        return out
    parts, share = parts_of(elements)
    programs, sizes = x0.shape[0] * parts, (elements, parts, share)
    sums = None
    if parts > 1:
        sums = room_for_sums(x0, 1, parts)
        launch(noise_parts, programs, x0, sums, *noise, *sizes, NORM=norm, **tile)
    launch(ball_starts, programs, x0, out, *ball, *noise, sums, *sizes, channels, 1 / elements, NORM=norm, **in_memory)
    return out


@triton.jit(do_not_specialize=["seed"])
def linf_starts(
    x0_ptr,
    out_ptr,
    eps: tl.float64,
    eps_ptr,
    low: tl.float64,
    high: tl.float64,
    seed: tl.int64,
    seed_ptr,
    sample_ids,
    elements,
    channels,
    blocks,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    first = program % blocks * BLOCK
    key, sample_id = _identity(seed, seed_ptr, sample_ids, sample)
    element = 4 * first + tl.arange(0, 4 * BLOCK)
    mask = element < elements
    offset = sample * elements + _memory_offset(element, elements, channels, CHANNELS_LAST)
    centre = widen(tl.load(x0_ptr + offset, mask))
    a, b, c, d = philox(key, first + tl.arange(0, BLOCK), sample_id)
    noise = per_sample(eps, eps_ptr, sample, None, centre) * symmetric(interleave(a, b, c, d), centre)
    start = clamp(centre + noise, scalar(low, centre), scalar(high, centre))
    tl.store(out_ptr + offset, narrow(start, out_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["seed"])
def noise_parts(
    x0_ptr,
    sums_ptr,
    seed: tl.int64,
    seed_ptr,
    sample_ids,
    elements,
    parts,
    share,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample, part, span = own_part(elements, parts, share)
    identity = _identity(seed, seed_ptr, sample_ids, sample)
    zeros = widen(tl.zeros([4 * BLOCK], x0_ptr.dtype.element_ty))
    keep_sums(sums_ptr + sample * parts, part, parts, (_noise_sum(identity, span, zeros, NORM, BLOCK),))


@triton.jit(do_not_specialize=["seed"])
def ball_starts(
    x0_ptr,
    out_ptr,
    eps: tl.float64,
    eps_ptr,
    low: tl.float64,
    high: tl.float64,
    seed: tl.int64,
    seed_ptr,
    sample_ids,
    sums_ptr,
    elements,
    parts,
    share,
    channels,
    inverse_elements: tl.float64,
    NORM: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample, _, span = own_part(elements, parts, share)
    identity = _identity(seed, seed_ptr, sample_ids, sample)
    zeros = widen(tl.zeros([4 * BLOCK], x0_ptr.dtype.element_ty))
    if sums_ptr is None:
        total = _noise_sum(identity, span, zeros, NORM, BLOCK)
    else:
        total = sum_of_parts(sums_ptr + sample * parts, parts, zeros)
    word, _, _, _ = philox(identity[0], tl.full((), _RADIUS_BLOCK, tl.int64), identity[1])
    radius = per_sample(eps, eps_ptr, sample, None, zeros)
    if NORM == L2:
        root = tl.exp(tl.log(positive(word, zeros)) * scalar(inverse_elements, zeros))
        scale = tl.where(total > 0, divide(radius * root, square_root(tl.where(total > 0, total, 1.0))), 0.0)
    else:
        total += tl.abs(signed_exponential(word, zeros))
        scale = divide(radius, tl.where(total > 0, total, 1.0))
    for start in range(span[0], span[1], 4 * BLOCK):
        element = start + tl.arange(0, 4 * BLOCK)
        mask = element < span[1]
        offset = sample * elements + _memory_offset(element, elements, channels, CHANNELS_LAST)
        centre = widen(tl.load(x0_ptr + offset, mask))
        delta = scale * _deviates(identity, start // 4 + tl.arange(0, BLOCK), zeros, NORM)
        moved = clamp(move_inside(centre, delta), scalar(low, centre), scalar(high, centre))
        tl.store(out_ptr + offset, narrow(moved, out_ptr.dtype.element_ty), mask)


@triton.jit
def _identity(seed, seed_ptr, sample_ids, sample):
    """Key and sample id of the noise, int64."""
    key = seed.to(tl.int64) if seed_ptr is None else tl.load(seed_ptr)
    sample_id = sample if sample_ids is None else tl.load(sample_ids + sample)
    return key, sample_id


@triton.jit
def _memory_offset(element, elements, channels, CHANNELS_LAST: tl.constexpr):
    """Offset in memory of the logical ``element`` of a sample."""
    if CHANNELS_LAST:
        pixels = elements // channels
        return element % pixels * channels + element // pixels
    else:
        return element


@triton.jit
def _noise_sum(identity, span, zeros, NORM: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of the squares of the deviates, or of their magnitudes."""
    sums = zeros
    for start in range(span[0], span[1], 4 * BLOCK):
        deviates = _deviates(identity, start // 4 + tl.arange(0, BLOCK), zeros, NORM)
        terms = deviates * deviates if NORM == L2 else tl.abs(deviates)
        sums += tl.where(start + tl.arange(0, 4 * BLOCK) < span[1], terms, 0.0)
    return tl.sum(sums, 0)


@triton.jit
def _deviates(identity, counter, like, NORM: tl.constexpr):
    """Deviates, normal or exponential with a sign, of the elements that belong to each of ``counter``."""
    a, b, c, d = philox(identity[0], counter.to(tl.int64), identity[1])
    if NORM == L2:
        first, second = normal_pair(a, b, like)
        third, fourth = normal_pair(c, d, like)
        return interleave(first, second, third, fourth)
    else:
        return signed_exponential(interleave(a, b, c, d), like)
