"""Kernel skeleton of the steps: move along a direction, if there is one, then project onto ball and box.

``move_elements`` serves linf balls and steps that look at one coordinate: one pass, a program a block of elements, or
as many samples as fill one, so that each pixel can be one. It reads x, direction and x0 and writes the result:
4 x itemsize bytes an element, 3 x without a direction.

``move_samples`` serves whatever needs a norm, a mean or the largest coordinates: a program a sample, which passes over
it a few times: a pass a norm and the mean of a gradient, one for every eight bits of the least of the largest
coordinates, one for each step of the search for the ball (one where the sample lies inside) and one to write. Only the
first comes from device memory; after it a sample of usual size is in the cache.

``move_parts`` does the same for long samples, each shared out among programs, in a launch a pass:
:mod:`fastadv.kernels.shared_samples`.

``bss_samples`` moves along an l2 step within the box alone: a pass for the norm and one to write, of long samples in a
launch each.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import LARGEST, LINF, UNIT, displacement, project_linf, unit_factors
from fastadv.kernels.launch import block, launch, rows_at_once
from fastadv.kernels.numerics import clamp, divide, narrow, norm_of_squares, per_sample, scalar, widen
from fastadv.kernels.parts import keep_sums, own_part, parts_of, room_for_sums, sums_of_parts
from fastadv.kernels.radix import DIGIT, begin_selection, choose_digit, least_chosen
from fastadv.kernels.sample import (
    along,
    begin_search,
    digit_bins,
    distance_sums,
    finish_search,
    magnitude_sums,
    over_mean,
    square_sums,
    write_projection,
)
from fastadv.kernels.shared_samples import move_shared


def move(
    x: Tensor,
    direction: Tensor | None,
    x0: Tensor,
    out: Tensor,
    eps: float,
    eps_n: Tensor | None,
    step_size: float,
    step_size_n: Tensor | None,
    norm: int,
    low: float,
    high: float,
    *,
    ascent: int,
    exact: bool,
    l1_fraction: float = 1.0,
    particles: int = 1,
    momentum: Tensor | None = None,
    decay: float = 1.0,
    gathered: Tensor | None = None,
) -> None:
    """Write the projection of ``x + step`` into ``out``, all [N, ...] with a sample in one run; ``out`` may be ``x``.

    ``norm`` is that of the ball, ``ascent`` the kind of the step, see :mod:`fastadv.kernels.geometry`, ``l1_fraction``
    the share of the coordinates that one of the largest moves. With ``particles`` n, samples i n to i n + n - 1 have
    centre, radius and step size i. With ``momentum`` the step is along ``decay momentum`` plus the direction over its
    mean magnitude, which is written into ``gathered``.
    """
    if x.numel() == 0:
        return
    elements = x.numel() // x.shape[0]
    ball_and_step = (eps, eps_n, step_size, step_size_n, low, high)
    tensors = (x, direction, x0, out)
    if norm == LINF.value and ascent != UNIT.value and particles == 1 and momentum is None:
        # Where all share one radius and one step, the batch is a single sample.
        run = x.numel() if eps_n is None and step_size_n is None else elements
        samples, columns = x.numel() // run, block(run, x)
        rows, blocks = rows_at_once(columns), triton.cdiv(run, columns)
        constants: dict[str, Any] = {"ASCENT": ascent, "EXACT": exact, "ROWS": rows, "BLOCK": columns}
        sizes, programs = (samples, run, blocks), triton.cdiv(samples, rows) * blocks
        launch(move_elements, programs, *tensors, *ball_and_step, *sizes, elements=rows * columns, **constants)
    else:
        columns = block(elements, x)
        constants = {"PARTICLES": particles, "NORM": norm, "ASCENT": ascent, "EXACT": exact, "BLOCK": columns}
        largest = math.ceil(l1_fraction * elements)
        arguments = (*tensors, *ball_and_step, elements, largest, momentum, decay, gathered)
        if parts_of(elements)[0] > 1:
            move_shared(*arguments, **constants)
        else:
            launch(move_samples, x.shape[0], *arguments, elements=columns, **constants)


@triton.jit
def move_elements(
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
    samples,
    elements,
    blocks,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = (program // blocks * ROWS + tl.arange(0, ROWS))[:, None]
    column = (program % blocks * BLOCK + tl.arange(0, BLOCK))[None, :]
    present = sample < samples
    mask = present & (column < elements)
    offset = sample * elements + column
    x0 = widen(tl.load(x0_ptr + offset, mask))
    x = widen(tl.load(x_ptr + offset, mask))
    if direction_ptr is not None:
        direction = widen(tl.load(direction_ptr + offset, mask))
        x += displacement(direction, per_sample(step_size, step_size_ptr, sample, present, x), 1.0, ASCENT)
    radius = per_sample(eps, eps_ptr, sample, present, x)
    projected = project_linf(x, x0, radius, scalar(low, x), scalar(high, x), EXACT)
    tl.store(out_ptr + offset, narrow(projected, out_ptr.dtype.element_ty), mask)


@triton.jit
def move_samples(
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
    PARTICLES: tl.constexpr,
    NORM: tl.constexpr,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    image = index // PARTICLES
    x_ptr += index * elements
    out_ptr += index * elements
    x0_ptr += image * elements
    span = 0, elements
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    ball = per_sample(eps, eps_ptr, image, None, zeros), scalar(low, zeros), scalar(high, zeros)
    size = per_sample(step_size, step_size_ptr, image, None, zeros)
    factor, inverse_mean, measure = scalar(1.0, zeros), scalar(1.0, zeros), scalar(1.0, zeros)
    if direction_ptr is not None:
        direction_ptr += index * elements
    if momentum_ptr is not None:
        momentum_ptr += index * elements
        gathered_ptr += index * elements
        factor, inverse_mean = over_mean(magnitude_sums(direction_ptr, span, zeros, BLOCK), elements)
    direction = direction_ptr, momentum_ptr, scalar(decay, zeros), factor, inverse_mean
    if direction_ptr is not None and ASCENT == UNIT:
        measure = unit_factors(size, norm_of_squares(square_sums(direction, span, zeros, BLOCK)))
    if direction_ptr is not None and ASCENT == LARGEST:
        selection, shift = begin_selection(zeros)
        while selection[3] & (shift >= 0):
            bins = digit_bins(direction, selection[0], shift, span, BLOCK)
            selection = choose_digit(selection, bins, shift, largest)
            shift -= DIGIT
        measure = least_chosen(selection)
        size = divide(size, tl.maximum(selection[2], 1).to(zeros.dtype))
    sample = x_ptr, x0_ptr, (direction, size, measure), clamp(scalar(0.0, zeros), ball[1], ball[2])

    found = scalar(1.0, zeros)
    if NORM != LINF:
        sums = distance_sums(sample, ball, span, zeros, NORM, ASCENT, EXACT, BLOCK)
        search = begin_search(sums, ball[0], NORM, EXACT)
        found = finish_search(search, sample, ball, span, zeros, NORM, ASCENT, EXACT, BLOCK)[0]
    write_projection(out_ptr, gathered_ptr, sample, ball, found, span, NORM, ASCENT, EXACT, BLOCK)


def move_to_boundary(
    x: Tensor,
    direction: Tensor,
    out: Tensor,
    gap: Tensor,
    active: Tensor,
    step_size: float,
    step_size_n: Tensor | None,
    low: float,
    high: float,
) -> None:
    """Write bss_step of ``x`` into ``out``."""
    if x.numel() == 0:
        return
    samples, elements = x.shape[0], x.numel() // x.shape[0]
    columns = block(elements, x)
    parts, share = parts_of(elements)
    tile = {"elements": columns, "BLOCK": columns}
    sums = None
    if parts > 1:
        sums = room_for_sums(x, 3, parts)
        launch(length_parts, samples * parts, direction, sums, elements, parts, share, **tile)
    step = (gap, active, step_size, step_size_n)
    launch(bss_samples, samples * parts, x, direction, out, *step, low, high, sums, elements, parts, share, **tile)


@triton.jit
def length_parts(direction_ptr, sums_ptr, elements, parts, share, BLOCK: tl.constexpr):
    sample, part, span = own_part(elements, parts, share)
    zeros = widen(tl.zeros([BLOCK], direction_ptr.dtype.element_ty))
    direction = direction_ptr + sample * elements, None, None, None, None
    keep_sums(sums_ptr + sample * 3 * parts, part, parts, square_sums(direction, span, zeros, BLOCK))


@triton.jit
def bss_samples(
    x_ptr,
    direction_ptr,
    out_ptr,
    gap_ptr,
    active_ptr,
    step_size: tl.float64,
    step_size_ptr,
    low: tl.float64,
    high: tl.float64,
    sums_ptr,
    elements,
    parts,
    share,
    BLOCK: tl.constexpr,
):
    sample, _, span = own_part(elements, parts, share)
    x_ptr += sample * elements
    direction_ptr += sample * elements
    out_ptr += sample * elements
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    direction = direction_ptr, None, None, None, None
    if sums_ptr is None:
        length = norm_of_squares(square_sums(direction, span, zeros, BLOCK))
    else:
        length = norm_of_squares(sums_of_parts(sums_ptr + sample * 3 * parts, parts, zeros, 3))
    active = tl.load(active_ptr + sample)
    # A little further than the boundary seems to be, so that the step ends beyond it.
    gap = tl.load(gap_ptr + sample) + scalar(1e-4, zeros)
    size = per_sample(step_size, step_size_ptr, sample, None, zeros) * gap
    measure = unit_factors(size, length)
    for start in range(span[0], span[1], BLOCK):
        column = start + tl.arange(0, BLOCK)
        mask = column < span[1]
        same = tl.load(x_ptr + column, mask, other=0)
        moved = widen(same) + displacement(along(direction, column, span[1]), size, measure, UNIT)
        moved = narrow(clamp(moved, scalar(low, zeros), scalar(high, zeros)), out_ptr.dtype.element_ty)
        tl.store(out_ptr + column, tl.where(active, moved, same), mask)
