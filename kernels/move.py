"""Kernel skeleton of the steps: move along a direction, if there is one, then project onto ball and box.

``move_elements`` serves linf balls and steps that look at one coordinate: one pass, a program a block of elements. It
reads x, direction and x0 and writes the result: 4 x itemsize bytes an element, 3 x without a direction.

``move_samples`` serves whatever needs a norm, a mean or the largest coordinates: a program a sample, which passes over
it a few times: two passes a norm and the mean of a gradient, one for each magnitude that is tried for the least of the
largest coordinates, one for each step of the search for the ball (none where the sample lies inside) and one to write.
Only the first comes from device memory; after it a sample of usual size is in the cache. A batch of a few large samples
leaves most multiprocessors idle: a sample is never shared out, which would take a launch for each of these passes.

``bss_samples`` moves along an l2 step within the box alone: two passes for the norm and one to write.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import (
    L1,
    L2,
    LARGEST,
    LINF,
    UNIT,
    displacement,
    l1_proposal,
    l1_terms,
    magnitude_bits,
    move_inside,
    newton,
    project_linf,
    scale_divisor,
    shrink,
    soften,
    stopped_by_box,
)
from fastadv.kernels.launch import block, launch
from fastadv.kernels.numerics import bits, clamp, divide, narrow, per_sample, scalar, square, square_root, widen

# As many as the reference makes; a pass that changes nothing ends the loop sooner.
_NEWTON_PASSES = tl.constexpr(10)
# The bracket of the l1 threshold is halved every other pass or so; where that still is not enough, its end inside the
# ball is taken.
_L1_PASSES = tl.constexpr(128)


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
        columns = block(run, x)
        blocks = triton.cdiv(run, columns)
        constants: dict[str, Any] = {"ASCENT": ascent, "EXACT": exact, "BLOCK": columns}
        programs = x.numel() // run * blocks
        launch(move_elements, programs, *tensors, *ball_and_step, run, blocks, elements=columns, **constants)
    else:
        columns = block(elements, x)
        constants = {"PARTICLES": particles, "NORM": norm, "ASCENT": ascent, "EXACT": exact, "BLOCK": columns}
        largest = math.ceil(l1_fraction * elements)
        accumulated = (momentum, decay, gathered)
        launch(
            move_samples,
            x.shape[0],
            *tensors,
            *ball_and_step,
            elements,
            largest,
            *accumulated,
            elements=columns,
            **constants,
        )


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
    elements,
    blocks,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    column = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = column < elements
    offset = sample * elements + column
    x0 = widen(tl.load(x0_ptr + offset, mask))
    x = widen(tl.load(x_ptr + offset, mask))
    if direction_ptr is not None:
        direction = widen(tl.load(direction_ptr + offset, mask))
        x += displacement(direction, per_sample(step_size, step_size_ptr, sample, None, x), 1.0, ASCENT)
    radius = per_sample(eps, eps_ptr, sample, None, x)
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
    sample = tl.program_id(0).to(tl.int64)
    image = sample // PARTICLES
    x_ptr += sample * elements
    out_ptr += sample * elements
    x0_ptr += image * elements
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    radius = per_sample(eps, eps_ptr, image, None, zeros)
    size = per_sample(step_size, step_size_ptr, image, None, zeros)
    low_, high_ = scalar(low, zeros), scalar(high, zeros)
    inside = clamp(scalar(0.0, zeros), low_, high_)
    measure = scalar(1.0, zeros)
    if direction_ptr is not None:
        direction_ptr += sample * elements
    divisor, mean = measure, measure
    if momentum_ptr is not None:
        momentum_ptr += sample * elements
        gathered_ptr += sample * elements
        divisor, mean = _mean_magnitude(direction_ptr, elements, zeros, BLOCK)
    direction = direction_ptr, momentum_ptr, scalar(decay, zeros), divisor, mean
    if direction_ptr is not None and ASCENT == UNIT:
        measure = _norm(direction, elements, zeros, BLOCK)
    if direction_ptr is not None and ASCENT == LARGEST:
        measure, count = _least_of_largest(direction, elements, largest, zeros, BLOCK)
        size = divide(size, tl.maximum(count, 1).to(zeros.dtype))
    step = direction, size, measure

    scale = scalar(1.0, zeros)
    if NORM == L2:
        farthest, farthest_reach = zeros, zeros
        for start in range(0, elements, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x, x0 = _moved(x_ptr, step, x0_ptr, column, elements, inside, ASCENT)
            farthest = tl.maximum(farthest, tl.abs(x - x0))
            farthest_reach = tl.maximum(farthest_reach, tl.abs(_reach(x, x0, low_, high_, EXACT)))
        divisor, divisor_reach = scale_divisor(tl.max(farthest, 0)), scale_divisor(tl.max(farthest_reach, 0))
        squares, squares_reach = zeros, zeros
        for start in range(0, elements, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x, x0 = _moved(x_ptr, step, x0_ptr, column, elements, inside, ASCENT)
            squares += square(divide(x - x0, divisor))
            squares_reach += square(divide(_reach(x, x0, low_, high_, EXACT), divisor_reach))
        distance = divisor * square_root(tl.sum(squares, 0))
        distance_in_box = divisor_reach * square_root(tl.sum(squares_reach, 0))
        scale = tl.where(distance_in_box > radius, divide(radius, distance), 1.0)
        if EXACT:
            passes = 0
            rising = scale < 1
            while rising & (passes < _NEWTON_PASSES):
                free, fixed = zeros, zeros
                for start in range(0, elements, BLOCK):
                    column = start + tl.arange(0, BLOCK)
                    x, x0 = _moved(x_ptr, step, x0_ptr, column, elements, inside, ASCENT)
                    stopped, limit = stopped_by_box(x - x0, x0, scale, low_, high_)
                    free += tl.where(stopped, 0.0, square(x - x0))
                    fixed += tl.where(stopped, square(limit), 0.0)
                raised = newton(scale, radius, tl.sum(free, 0), tl.sum(fixed, 0))
                rising = raised > scale
                scale = raised
                passes += 1

    threshold = tl.full((), 0.0, tl.float64)
    if NORM == L1:
        sample_and_centre = x_ptr, step, x0_ptr, elements, inside
        threshold = _l1_threshold(sample_and_centre, radius, low_, high_, zeros, ASCENT, EXACT, BLOCK)

    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x, x0 = _moved(x_ptr, step, x0_ptr, column, elements, inside, ASCENT)
        if NORM == L2:
            projected = clamp(shrink(x, x0, x - x0, scale), low_, high_)
        elif NORM == L1:
            soft = soften(x - x0, threshold)
            projected = clamp(tl.where(threshold > 0, move_inside(x0, soft), x), low_, high_)
        else:
            projected = project_linf(x, x0, radius, low_, high_, EXACT)
        tl.store(out_ptr + column, narrow(projected, out_ptr.dtype.element_ty), column < elements)
        if momentum_ptr is not None:
            gathered = narrow(_direction(direction, column, elements), gathered_ptr.dtype.element_ty)
            tl.store(gathered_ptr + column, gathered, column < elements)


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
    elements = x.numel() // x.shape[0]
    columns = block(elements, x)
    step = (gap, active, step_size, step_size_n)
    launch(bss_samples, x.shape[0], x, direction, out, *step, low, high, elements, elements=columns, BLOCK=columns)


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
    elements,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    x_ptr += sample * elements
    direction_ptr += sample * elements
    out_ptr += sample * elements
    zeros = widen(tl.zeros([BLOCK], x_ptr.dtype.element_ty))
    active = tl.load(active_ptr + sample)
    # A little further than the boundary seems to be, so that the step ends beyond it.
    gap = tl.load(gap_ptr + sample) + scalar(1e-4, zeros)
    size = per_sample(step_size, step_size_ptr, sample, None, zeros) * gap
    direction = direction_ptr, None, None, None, None
    length = _norm(direction, elements, zeros, BLOCK)
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        mask = column < elements
        same = tl.load(x_ptr + column, mask, other=0)
        moved = widen(same) + displacement(_direction(direction, column, elements), size, length, UNIT)
        moved = narrow(clamp(moved, scalar(low, zeros), scalar(high, zeros)), out_ptr.dtype.element_ty)
        tl.store(out_ptr + column, tl.where(active, moved, same), mask)


@triton.jit
def _direction(direction, column, elements):
    """A block of what the step is along; zeros past the end. NaN in what is added to a momentum counts as zero."""
    ptr, momentum_ptr, decay, divisor, mean = direction
    mask = column < elements
    step = widen(tl.load(ptr + column, mask, other=0))
    if momentum_ptr is None:
        return step
    else:
        known = tl.where(step == step, step, 0.0)
        added = tl.where((mean > 0) & (mean < float("inf")), divide(divide(known, divisor), mean), 0.0)
        return decay * widen(tl.load(momentum_ptr + column, mask, other=0)) + added


@triton.jit
def _moved(x_ptr, step, x0_ptr, column, elements, inside, ASCENT: tl.constexpr):
    """Points after the step, and their centres; past the end both are ``inside``, a value within the box."""
    direction, size, measure = step
    mask = column < elements
    x = widen(tl.load(x_ptr + column, mask, other=0))
    x0 = widen(tl.load(x0_ptr + column, mask, other=0))
    if direction[0] is not None:
        x += displacement(_direction(direction, column, elements), size, measure, ASCENT)
    return tl.where(mask, x, inside), tl.where(mask, x0, inside)


@triton.jit
def _reach(x, x0, low, high, EXACT: tl.constexpr):
    """Offset from the centre that has to lie in the ball: of ``x``, clipped to the box where that is exact."""
    return clamp(x - x0, low - x0, high - x0) if EXACT else x - x0


@triton.jit
def _l1_threshold(sample, radius, low, high, zeros, ASCENT: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    """Threshold t, float64, at which ``clamp(x0 + soften(x - x0, t), low, high)`` has distance ``radius``; 0 inside."""
    outside = tl.full((), 0.0, tl.float64)
    distance, slope, far = _l1_sums(sample, outside, low, high, zeros, ASCENT, EXACT, BLOCK)
    eps = radius.to(tl.float64)
    # In float32 half of what the norm may exceed the radius by, 4 * 2^-23; the other half is left to other rounding.
    tolerance = eps * (2.0**-46 if zeros.dtype == tl.float64 else 2.0**-22)
    goal = eps - tolerance
    near, near_distance, near_slope = outside, distance, slope
    far_distance, far_slope = outside, outside
    width, passes = far, 0
    found = tl.where(distance > eps, far, 0.0)
    searching = (distance > eps) & (goal > 0)
    while searching:
        # Every second pass that has not halved the bracket is followed by one that does.
        stalled = (passes > 0) & (passes % 2 == 0) & (far - near > width / 2)
        width = tl.where(passes % 2 == 0, far - near, width)
        proposal = l1_proposal(goal, near, near_distance, near_slope, far, far_distance, far_slope)
        within = (proposal > near) & (proposal < far) & (stalled == 0)
        t = tl.where(within, proposal, near + (far - near) / 2)
        distance, slope, _ = _l1_sums(sample, t, low, high, zeros, ASCENT, EXACT, BLOCK)
        above = distance - goal
        passes += 1
        searching = (t > near) & (t < far) & ((above > tolerance) | (above < -tolerance)) & (passes < _L1_PASSES)
        is_near = above > tolerance
        near, far = tl.where(is_near, t, near), tl.where(is_near, far, t)
        near_distance = tl.where(is_near, distance, near_distance)
        far_distance = tl.where(is_near, far_distance, distance)
        near_slope, far_slope = tl.where(is_near, slope, near_slope), tl.where(is_near, far_slope, slope)
        found = far
    return found


@triton.jit
def _l1_sums(sample, t, low, high, zeros, ASCENT: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    """Distance from the centre at threshold ``t``, how fast it falls, and the largest distance of a coordinate at 0.

    In float64: equal terms, which sign steps leave behind, round alike and would add up their errors.
    """
    x_ptr, step, x0_ptr, elements, inside = sample
    distances, slopes = zeros.to(tl.float64), zeros.to(tl.float64)
    farthest = zeros
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x, x0 = _moved(x_ptr, step, x0_ptr, column, elements, inside, ASCENT)
        distance, slope = l1_terms(x - x0, x0, t, low, high, EXACT)
        distances += distance
        slopes += slope
        farthest = tl.maximum(farthest, tl.abs(x - x0))
    return tl.sum(distances, 0), tl.sum(slopes, 0), tl.max(farthest, 0).to(tl.float64)


@triton.jit
def _least_of_largest(direction, elements, k, zeros, BLOCK: tl.constexpr):
    """Bits of the ``k``-th largest magnitude of a direction, or of the least above zero; how many reach it.

    Bisection on the bits, after a first probing downward by powers of two; it ends early where exactly ``k`` reach a
    probe.
    """
    most = magnitude_bits(zeros)
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        most = tl.maximum(most, magnitude_bits(_direction(direction, column, elements)))
    above = tl.max(most, 0) + 1
    stride = bits(scalar(2.0, zeros)) - bits(scalar(1.0, zeros))
    at_least = tl.zeros_like(above)
    count = 0
    searching = above > 1
    while searching:
        probe = tl.where(at_least == 0, tl.maximum(above - stride, 1), at_least + (above - at_least) // 2)
        stride = tl.where(probe > 1, stride * 2, stride)
        reach = tl.zeros_like(most)
        for start in range(0, elements, BLOCK):
            column = start + tl.arange(0, BLOCK)
            reach += (magnitude_bits(_direction(direction, column, elements)) >= probe).to(reach.dtype)
        reached = tl.sum(reach, 0).to(tl.int32)
        enough = (reached >= k) | (probe == 1)
        at_least, above = tl.where(enough, probe, at_least), tl.where(enough, above, probe)
        count = tl.where(enough, reached, count)
        searching = (at_least == 0) | ((count > k) & (above - at_least > 1))
    return tl.maximum(at_least, 1), count


@triton.jit
def _norm(direction, elements, zeros, BLOCK: tl.constexpr):
    """l2 norm of a direction that neither overflows nor underflows; NaN where it has one."""
    largest = zeros
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, tl.abs(_direction(direction, column, elements)))
    divisor = scale_divisor(tl.max(largest, 0))
    squares = zeros
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        squares += square(divide(_direction(direction, column, elements), divisor))
    return divisor * square_root(tl.sum(squares, 0))


@triton.jit
def _mean_magnitude(ptr, elements, zeros, BLOCK: tl.constexpr):
    """Two divisors, one after the other, that bring a run of elements to mean magnitude 1; NaN counts as zero."""
    largest = zeros
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        largest = tl.maximum(largest, _magnitude(ptr, column, elements))
    divisor = scale_divisor(tl.max(largest, 0))
    total = zeros
    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        total += divide(_magnitude(ptr, column, elements), divisor)
    return divisor, divide(tl.sum(total, 0), elements.to(zeros.dtype))


@triton.jit
def _magnitude(ptr, column, elements):
    x = widen(tl.load(ptr + column, column < elements, other=0))
    return tl.where(x == x, tl.abs(x), 0.0)
