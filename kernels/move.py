"""Kernel skeleton of the steps: move along a direction, if there is one, then project onto ball and box.

``elementwise`` serves linf balls without an l2 step: one pass, a program a block of elements of the whole batch. It
reads x, direction and x0 and writes the result: 4 x itemsize bytes an element, 3 x without a direction.

``by_sample`` serves whatever needs an l2 norm or a mean: a program a sample, which passes over it a few times: two
passes a norm and the mean of a gradient, one for each Newton step (none where the sample lies inside the ball) and one
to write. Only the first comes from device memory; after it a sample of usual size is in the cache.

``bss_samples`` moves along an l2 step within the box alone: two passes for the norm and one to write.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.geometry import (
    L2,
    LINF,
    displacement,
    newton,
    project_linf,
    scale_divisor,
    shrink,
    stopped_by_box,
)
from fastadv.kernels.launch import block, launch
from fastadv.kernels.numerics import clamp, divide, narrow, per_sample, scalar, square, square_root, widen

# As many as the reference makes; a pass that changes nothing ends the loop sooner.
_NEWTON_PASSES = tl.constexpr(10)


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
    particles: int = 1,
    momentum: Tensor | None = None,
    decay: float = 1.0,
    gathered: Tensor | None = None,
) -> None:
    """Write the projection of ``x + step`` into ``out``, all [N, ...] with a sample in one run; ``out`` may be ``x``.

    ``norm`` is that of the ball, ``ascent`` that of the step (2: raw). With ``particles`` n, samples i n to i n + n - 1
    have centre, radius and step size i. With ``momentum`` the step is along ``decay momentum`` plus the direction over
    its mean magnitude, which is written into ``gathered``.
    """
    if x.numel() == 0:
        return
    elements = x.numel() // x.shape[0]
    ball_and_step = (eps, eps_n, step_size, step_size_n, low, high, elements)
    tensors = (x, direction, x0, out)
    if norm == LINF.value and ascent != L2.value and particles == 1 and momentum is None:
        total = x.numel()
        columns = block(total, x)
        constants: dict[str, Any] = {"ASCENT": ascent, "EXACT": exact, "BLOCK": columns}
        launch(elementwise, triton.cdiv(total, columns), *tensors, *ball_and_step, total, elements=columns, **constants)
    else:
        columns = block(elements, x)
        constants = {"PARTICLES": particles, "NORM": norm, "ASCENT": ascent, "EXACT": exact, "BLOCK": columns}
        accumulated = (momentum, decay, gathered)
        launch(by_sample, x.shape[0], *tensors, *ball_and_step, *accumulated, elements=columns, **constants)


@triton.jit
def elementwise(
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
    total,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < total
    sample = offset // elements
    x0 = widen(tl.load(x0_ptr + offset, mask))
    x = widen(tl.load(x_ptr + offset, mask))
    if direction_ptr is not None:
        direction = widen(tl.load(direction_ptr + offset, mask))
        x += displacement(direction, per_sample(step_size, step_size_ptr, sample, mask, x), 1.0, ASCENT)
    radius = per_sample(eps, eps_ptr, sample, mask, x)
    projected = project_linf(x, x0, radius, scalar(low, x), scalar(high, x), EXACT)
    tl.store(out_ptr + offset, narrow(projected, out_ptr.dtype.element_ty), mask)


@triton.jit
def by_sample(
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
    length = scalar(1.0, zeros)
    if direction_ptr is not None:
        direction_ptr += sample * elements
    divisor, mean = length, length
    if momentum_ptr is not None:
        momentum_ptr += sample * elements
        gathered_ptr += sample * elements
        divisor, mean = _mean_magnitude(direction_ptr, elements, zeros, BLOCK)
    direction = direction_ptr, momentum_ptr, scalar(decay, zeros), divisor, mean
    if direction_ptr is not None and ASCENT == L2:
        length = _norm(direction, elements, zeros, BLOCK)

    scale = scalar(1.0, zeros)
    if NORM == L2:
        farthest, farthest_reach = zeros, zeros
        for start in range(0, elements, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x, x0 = _moved(x_ptr, direction, x0_ptr, column, elements, size, length, inside, ASCENT)
            farthest = tl.maximum(farthest, tl.abs(x - x0))
            farthest_reach = tl.maximum(farthest_reach, tl.abs(_reach(x, x0, low_, high_, EXACT)))
        divisor, divisor_reach = scale_divisor(tl.max(farthest, 0)), scale_divisor(tl.max(farthest_reach, 0))
        squares, squares_reach = zeros, zeros
        for start in range(0, elements, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x, x0 = _moved(x_ptr, direction, x0_ptr, column, elements, size, length, inside, ASCENT)
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
                    x, x0 = _moved(x_ptr, direction, x0_ptr, column, elements, size, length, inside, ASCENT)
                    stopped, limit = stopped_by_box(x - x0, x0, scale, low_, high_)
                    free += tl.where(stopped, 0.0, square(x - x0))
                    fixed += tl.where(stopped, square(limit), 0.0)
                raised = newton(scale, radius, tl.sum(free, 0), tl.sum(fixed, 0))
                rising = raised > scale
                scale = raised
                passes += 1

    for start in range(0, elements, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x, x0 = _moved(x_ptr, direction, x0_ptr, column, elements, size, length, inside, ASCENT)
        if NORM == L2:
            projected = clamp(shrink(x, x0, x - x0, scale), low_, high_)
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
        moved = widen(same) + displacement(_direction(direction, column, elements), size, length, L2)
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
def _moved(x_ptr, direction, x0_ptr, column, elements, size, length, inside, ASCENT: tl.constexpr):
    """Where the step leads, and the centre; past the end both are ``inside``, a value within the box."""
    mask = column < elements
    x = widen(tl.load(x_ptr + column, mask, other=0))
    x0 = widen(tl.load(x0_ptr + column, mask, other=0))
    if direction[0] is not None:
        x += displacement(_direction(direction, column, elements), size, length, ASCENT)
    return tl.where(mask, x, inside), tl.where(mask, x0, inside)


@triton.jit
def _reach(x, x0, low, high, EXACT: tl.constexpr):
    """What has to lie in the ball, as an offset from the centre: ``x``, clipped to the box where that is exact."""
    return clamp(x - x0, low - x0, high - x0) if EXACT else x - x0


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
    """What to divide a run of elements by, once and again, to have it over its mean magnitude; NaN counts as zero."""
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
