"""Steps and projections of long samples, each shared out among programs: what is summed over a sample takes a launch.

The programs of a launch leave the sums of their parts; every program of the next adds these up and hands on a record of
what is known of its sample. In turn, where a step needs them:

  magnitudes   the mean magnitude of a gradient that a momentum gathers
  lengths      the squares of the direction
  digits       a histogram of the direction's magnitudes, for every eight bits of the least of the largest
  distances    how far the sample is from its centre after the step
  passes       a few steps of the search for the ball, which find nothing to do once it has ended
  finish       the steps that are still needed, a program a sample
  write        the projection

A launch reads what it looks at once: of x, direction and x0 together 3 x itemsize bytes an element.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import L1, L2, LARGEST, LINF, UNIT, unit_factors
from fastadv.kernels.launch import accumulator, launch
from fastadv.kernels.numerics import clamp, divide, norm_of_squares, per_sample, scalar, widen
from fastadv.kernels.parts import keep_sums, most_of_parts, own_part, parts_of, room_for_sums, sums_of_parts
from fastadv.kernels.radix import BINS, DIGIT, begin_selection, choose_digit, least_chosen, words
from fastadv.kernels.sample import (
    advance,
    begin_search,
    digit_bins,
    distance_sums,
    finish_search,
    magnitude_sums,
    over_mean,
    pass_sums,
    searching,
    square_sums,
    write_projection,
)

# The launches, by what they do.
_FIRST = tl.constexpr(0)
_MAGNITUDES = tl.constexpr(1)
_LENGTHS = tl.constexpr(2)
_DIGITS = tl.constexpr(3)
_DISTANCES = tl.constexpr(4)
_PASSES = tl.constexpr(5)
_FINISH = tl.constexpr(6)
_WRITE = tl.constexpr(7)

# Steps of the search that are shared out: as many as an attack's iterates need. Projections from far outside of the
# ball may need a few more.
_SHARED_PASSES = {L2.value: 3, L1.value: 5}
# Numbers of a record, of which 17 are used, and sums of a part. Triton compiles anew where a pointer is no multiple of
# 16 bytes: with an even number the second half of all records begins at one for every batch.
_RECORD = tl.constexpr(18)
_SUMS = tl.constexpr(6)


def move_shared(
    x: Tensor,
    direction: Tensor | None,
    x0: Tensor,
    out: Tensor,
    eps: float,
    eps_n: Tensor | None,
    step_size: float,
    step_size_n: Tensor | None,
    low: float,
    high: float,
    elements: int,
    largest: int,
    momentum: Tensor | None,
    decay: float,
    gathered: Tensor | None,
    **constants: Any,
) -> None:
    """Launch what :mod:`fastadv.kernels.move` describes, for samples of more than one part."""
    samples = x.shape[0]
    parts, share = parts_of(elements)
    digits = accumulator(x).itemsize
    stages = _stages(direction, momentum, digits, constants["ASCENT"], constants["NORM"], constants["EXACT"])
    records = x.new_empty([2, samples, _RECORD.value], dtype=torch.float64)
    sums = x.new_empty([2, *room_for_sums(x, _SUMS.value, parts).shape], dtype=torch.float64)
    bins = x.new_empty([2, samples, parts, BINS.value], dtype=torch.int32) if _DIGITS.value in stages else None
    tensors = (x, direction, x0, out)
    numbers = (eps, eps_n, step_size, step_size_n, low, high, elements, largest, momentum, decay, gathered)
    left = stages.count(_DIGITS.value)
    for turn, (before, stage) in enumerate(itertools.pairwise([_FIRST.value, *stages])):
        left -= stage == _DIGITS.value
        launch(
            move_parts,
            samples if stage == _FINISH.value else samples * parts,
            *tensors,
            *numbers,
            *(records[1 - turn % 2], records[turn % 2], sums[1 - turn % 2], sums[turn % 2]),
            *((None, None) if bins is None else (bins[1 - turn % 2], bins[turn % 2])),
            parts,
            share,
            DIGIT.value * left,
            elements=constants["BLOCK"],
            BEFORE=before,
            STAGE=stage,
            **constants,
        )


def _stages(
    direction: Tensor | None, momentum: Tensor | None, digits: int, ascent: int, norm: int, exact: bool
) -> list[int]:
    """Return the launches of a step, in turn; ``digits`` is how many the bits of a magnitude have."""
    stages = [_MAGNITUDES.value] * (momentum is not None)
    if direction is not None:
        stages += [_LENGTHS.value] * (ascent == UNIT.value)
        stages += [_DIGITS.value] * digits * (ascent == LARGEST.value)
    if norm != LINF.value:
        stages.append(_DISTANCES.value)
    if norm == L1.value or (norm == L2.value and exact):
        stages += [_PASSES.value] * _SHARED_PASSES[norm] + [_FINISH.value]
    return [*stages, _WRITE.value]


@triton.jit(do_not_specialize=["shift"])
def move_parts(
    x_ptr,
    direction_ptr,
    x0_ptr,
    out_ptr,
    eps: tl.float64,
    eps_ptr,
    step_size: tl.float64,
    step_size_ptr,
    low: tl.float64,
    high: tl.float64,
    elements,
    largest,
    momentum_ptr,
    decay: tl.float64,
    gathered_ptr,
    known_ptr,
    record_ptr,
    sums_before_ptr,
    sums_ptr,
    bins_before_ptr,
    bins_ptr,
    parts,
    share,
    shift,
    PARTICLES: tl.constexpr,
    NORM: tl.constexpr,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
    BEFORE: tl.constexpr,
    STAGE: tl.constexpr,
):
    """One launch, ``STAGE``, which adds up what the one before it, ``BEFORE``, has left of the parts."""
    if STAGE == _FINISH:
        index, part, span = tl.program_id(0).to(tl.int64), 0, (0, elements)
    else:
        index, part, span = own_part(elements, parts, share)
    image = index // PARTICLES
    x_ptr += index * elements
    out_ptr += index * elements
    x0_ptr += image * elements
    if direction_ptr is not None:
        direction_ptr += index * elements
    if momentum_ptr is not None:
        momentum_ptr += index * elements
        gathered_ptr += index * elements
    sums_before_ptr += index * _SUMS * parts
    sums_ptr += index * _SUMS * parts
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    ball = per_sample(eps, eps_ptr, image, None, zeros), scalar(low, zeros), scalar(high, zeros)

    factors, measure, selection, search = _known(known_ptr + index * _RECORD, zeros, NORM, BEFORE)
    if BEFORE == _MAGNITUDES:
        factors = over_mean(sums_of_parts(sums_before_ptr, parts, zeros, 2), elements)
    if BEFORE == _LENGTHS:
        measure = norm_of_squares(sums_of_parts(sums_before_ptr, parts, zeros, 3))
    if BEFORE == _DIGITS:
        bins = _bins_of_parts(bins_before_ptr + index * parts * BINS, parts)
        selection = choose_digit(selection, bins, shift + DIGIT if STAGE == _DIGITS else shift, largest)
    record_ptr += index * _RECORD
    if STAGE != _WRITE and part == 0:
        # What is known goes out before more is found: few registers are left then.
        _keep(record_ptr, factors, measure, selection)
    if BEFORE == _DISTANCES:
        search = begin_search(_distances(sums_before_ptr, parts, zeros, NORM), ball[0], NORM, EXACT)
    if BEFORE == _PASSES:
        like = ball[0].to(tl.float64) if NORM == L1 else ball[0]
        search = advance(search, sums_of_parts(sums_before_ptr, parts, like, 2), ball[0], NORM)
    if STAGE != _WRITE and part == 0:
        _keep_search(record_ptr, search)

    size = per_sample(step_size, step_size_ptr, image, None, zeros)
    scaled = measure
    if ASCENT == UNIT:
        scaled = unit_factors(size, measure)
    if ASCENT == LARGEST:
        scaled = least_chosen(selection)
        size = divide(size, tl.maximum(selection[2], 1).to(zeros.dtype))
    direction = direction_ptr, momentum_ptr, scalar(decay, zeros), factors[0], factors[1]
    sample = x_ptr, x0_ptr, (direction, size, scaled), clamp(scalar(0.0, zeros), ball[1], ball[2])

    if STAGE == _MAGNITUDES:
        keep_sums(sums_ptr, part, parts, magnitude_sums(direction_ptr, span, zeros, BLOCK))
    if STAGE == _LENGTHS:
        keep_sums(sums_ptr, part, parts, square_sums(direction, span, zeros, BLOCK))
    if STAGE == _DIGITS:
        # Nothing is read again once it is known.
        first, last = span
        bins = digit_bins(direction, selection[0], shift, (first, tl.where(selection[3], last, first)), BLOCK)
        tl.store(bins_ptr + (index * parts + part) * BINS + tl.arange(0, BINS), bins)
    if STAGE == _DISTANCES:
        sums = distance_sums(sample, ball, span, zeros, NORM, ASCENT, EXACT, BLOCK)
        keep_sums(sums_ptr, part, parts, sums)
    if STAGE == _PASSES:
        first, last = span
        left = first, tl.where(searching(search), last, first)
        sums = pass_sums(sample, ball, search, left, zeros, NORM, ASCENT, EXACT, BLOCK)
        keep_sums(sums_ptr, part, parts, sums)
    if STAGE == _FINISH:
        _keep_search(record_ptr, finish_search(search, sample, ball, span, zeros, NORM, ASCENT, EXACT, BLOCK))
    if STAGE == _WRITE:
        write_projection(out_ptr, gathered_ptr, sample, ball, search[0], span, NORM, ASCENT, EXACT, BLOCK)


@triton.jit
def _known(ptr, like, NORM: tl.constexpr, BEFORE: tl.constexpr):
    """Factors, measure, selection and search as the record in ``ptr`` has them; at first nothing is known of any."""
    one = scalar(1.0, like)
    factors, measure = (one, one), one
    selection, _ = begin_selection(like)
    if BEFORE != _FIRST:
        factors = _number(ptr, 0, like), _number(ptr, 1, like)
        measure = _number(ptr, 2, like)
        found = words(_number(ptr, 3, like))
        selection = found, _count(ptr, 4), _count(ptr, 5), _count(ptr, 6) > 0
    return factors, measure, selection, _known_search(ptr, like, NORM, BEFORE)


@triton.jit
def _known_search(ptr, like, NORM: tl.constexpr, BEFORE: tl.constexpr):
    none = tl.full((), 0, tl.int32)
    if NORM == L1:
        wide = tl.full((), 0.0, tl.float64)
        if BEFORE == _FIRST:
            return wide, wide, none > 0, none, wide, none, wide, wide, none, wide
        else:
            return (
                _number(ptr, 7, wide),
                _number(ptr, 8, wide),
                _count(ptr, 9) > 0,
                _count(ptr, 10),
                _number(ptr, 11, wide),
                _count(ptr, 12),
                _number(ptr, 13, wide),
                _number(ptr, 14, wide),
                _count(ptr, 15),
                _number(ptr, 16, wide),
            )
    elif BEFORE == _FIRST:
        return scalar(1.0, like), none, none > 0
    else:
        return _number(ptr, 7, like), _count(ptr, 8), _count(ptr, 9) > 0


@triton.jit
def _keep(ptr, factors, measure, selection):
    """Write what :func:`_known` reads but for the search."""
    tl.store(ptr, factors[0].to(tl.float64))
    tl.store(ptr + 1, factors[1].to(tl.float64))
    tl.store(ptr + 2, measure.to(tl.float64))
    # The bits found are those of a number, which float64 holds.
    found = (selection[0] >> 1).to(measure.dtype, bitcast=True)
    tl.store(ptr + 3, found.to(tl.float64))
    for k in tl.static_range(1, 4):
        tl.store(ptr + 3 + k, selection[k].to(tl.float64))


@triton.jit
def _keep_search(ptr, search):
    for k in tl.static_range(len(search)):
        tl.store(ptr + 7 + k, search[k].to(tl.float64))


@triton.jit
def _number(ptr, k, like):
    return tl.load(ptr + k).to(like.dtype)


@triton.jit
def _count(ptr, k):
    return tl.load(ptr + k).to(tl.int32)


@triton.jit
def _distances(ptr, parts, like, NORM: tl.constexpr):
    """What :func:`fastadv.kernels.sample.distance_sums` gives, of all parts."""
    if NORM == L1:
        wide = tl.full((), 0.0, tl.float64)
        sums = sums_of_parts(ptr, parts, wide, 2)
        sums += (most_of_parts(ptr + 2 * parts, parts, wide),)
        return sums
    else:
        return sums_of_parts(ptr, parts, like, 6)


@triton.jit
def _bins_of_parts(ptr, parts):
    """Sum over all parts of their histograms [parts, BINS]."""
    bins = tl.zeros([BINS], tl.int32)
    for start in range(0, parts, 16):
        part = start + tl.arange(0, 16)
        tile = ptr + part[:, None] * BINS + tl.arange(0, BINS)[None, :]
        bins += tl.sum(tl.load(tile, (part < parts)[:, None], other=0), 0)
    return bins
