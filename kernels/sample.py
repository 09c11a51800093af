"""What a step and a projection sum over a sample, or over a part of one, and the search for the ball.

A direction is a pointer and, where a momentum gathers it, that of the momentum, its decay and two factors that bring
what is gathered to mean magnitude 1. A step is a direction, a size and a measure, see
:func:`fastadv.kernels.geometry.displacement`. A sample is the pointers to its points and its centres, the step, and a
value within the box; a ball its radius and the box. A span is a first element and the one after the last.

A search is the numbers that its passes hand on: of an l2 ball the scale, how often it was raised, and whether it may
rise; of an l1 ball the least threshold known to lie inside, 0 where all do, the one that is tried, whether it has to
be, how many were, and what else is known of the bracket.
"""

import triton
import triton.language as tl

from fastadv.kernels.geometry import (
    L1,
    L2,
    displacement,
    l1_proposal,
    l1_terms,
    move_inside,
    newton,
    project_linf,
    shrink,
    soften,
    stopped_by_box,
)
from fastadv.kernels.numerics import (
    add_at_all_scales,
    clamp,
    divide,
    narrow,
    norm_of_squares,
    scalar,
    shrinkage,
    square,
    widen,
)
from fastadv.kernels.radix import BINS, digits_of

# A pass that changes nothing ends the search, mostly after a few; where the distances of coordinates differ by many
# orders of magnitude, after two dozen.
_NEWTON_PASSES = tl.constexpr(32)
# The bracket of the l1 threshold is halved every other pass or so; where that still is not enough, its end inside the
# ball is taken.
_L1_PASSES = tl.constexpr(128)


@triton.jit
def along(direction, column, last):
    """A block of what the step is along; zeros past the end. NaN in what is added to a momentum counts as zero."""
    ptr, momentum_ptr, decay, factor, inverse_mean = direction
    mask = column < last
    step = widen(tl.load(ptr + column, mask, other=0))
    if momentum_ptr is None:
        return step
    else:
        known = tl.where(step == step, step, 0.0)
        added = tl.where(inverse_mean > 0, factor * known * inverse_mean, 0.0)
        return decay * widen(tl.load(momentum_ptr + column, mask, other=0)) + added


@triton.jit
def moved(sample, column, last, ASCENT: tl.constexpr):
    """Points after the step, and their centres; past the end both are a value within the box."""
    x_ptr, x0_ptr, step, inside = sample
    direction, size, measure = step
    mask = column < last
    x = widen(tl.load(x_ptr + column, mask, other=0))
    x0 = widen(tl.load(x0_ptr + column, mask, other=0))
    if direction[0] is not None:
        x += displacement(along(direction, column, last), size, measure, ASCENT)
    return tl.where(mask, x, inside), tl.where(mask, x0, inside)


@triton.jit
def magnitude_sums(ptr, span, zeros, BLOCK: tl.constexpr):
    """Sum of the magnitudes of a run of elements, as it is and shrunk; NaN counts as zero."""
    plain, shrunk = zeros, zeros
    least, _ = shrinkage(zeros)
    for start in range(span[0], span[1], BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = widen(tl.load(ptr + column, column < span[1], other=0))
        magnitude = tl.where(x == x, tl.abs(x), 0.0)
        plain += magnitude
        shrunk += least * magnitude
    return tl.sum(plain, 0), tl.sum(shrunk, 0)


@triton.jit
def over_mean(sums, elements):
    """Two factors that bring a run of elements to mean magnitude 1; the second is 0 where the mean is, or infinite."""
    plain, shrunk = sums
    least, most = shrinkage(plain)
    total = tl.where(plain <= least, plain * most, tl.where(plain >= most, shrunk, plain))
    factor = tl.where(plain <= least, most, tl.where(plain >= most, least, 1.0))
    mean = divide(total, scalar(elements, plain))
    some = (mean > 0) & (mean < float("inf"))
    return factor, tl.where(some, divide(scalar(1.0, plain), tl.where(some, mean, 1.0)), 0.0)


@triton.jit
def square_sums(direction, span, zeros, BLOCK: tl.constexpr):
    """Sum of the squares of a direction, at all scales."""
    sums = zeros, zeros, zeros
    for start in range(span[0], span[1], BLOCK):
        sums = add_at_all_scales(sums, along(direction, start + tl.arange(0, BLOCK), span[1]))
    return tl.sum(sums[0], 0), tl.sum(sums[1], 0), tl.sum(sums[2], 0)


@triton.jit
def digit_bins(direction, found, shift, span, BLOCK: tl.constexpr):
    """Histogram of the next digits of the magnitudes of a direction."""
    bins = tl.zeros([BINS], tl.int32)
    for start in range(span[0], span[1], BLOCK):
        bins += digits_of(along(direction, start + tl.arange(0, BLOCK), span[1]), found, shift)
    return bins


@triton.jit
def distance_sums(
    sample, ball, span, zeros, NORM: tl.constexpr, ASCENT: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr
):
    """What a search begins with.

    l2: the squared distance from the centre, and that of what has to lie in the ball, at all scales. l1: the distance,
    how fast it falls as the threshold grows, and, as the last, the largest distance of a coordinate.
    """
    if NORM == L1:
        return l1_sums(sample, ball, tl.full((), 0.0, tl.float64), span, zeros, ASCENT, EXACT, BLOCK)
    else:
        _, low, high = ball
        whole, clipped = (zeros, zeros, zeros), (zeros, zeros, zeros)
        for start in range(span[0], span[1], BLOCK):
            x, x0 = moved(sample, start + tl.arange(0, BLOCK), span[1], ASCENT)
            delta = x - x0
            whole = add_at_all_scales(whole, delta)
            if EXACT:
                clipped = add_at_all_scales(clipped, clamp(delta, low - x0, high - x0))
        if not EXACT:
            clipped = whole
        return (
            tl.sum(whole[0], 0),
            tl.sum(whole[1], 0),
            tl.sum(whole[2], 0),
            tl.sum(clipped[0], 0),
            tl.sum(clipped[1], 0),
            tl.sum(clipped[2], 0),
        )


@triton.jit
def pass_sums(
    sample,
    ball,
    search,
    span,
    zeros,
    NORM: tl.constexpr,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What a pass of a search asks for.

    l2: the squared norm of what moves at the scale and of what the box stops. l1: distance and slope at the threshold.
    """
    if NORM == L1:
        distance, slope, _ = l1_sums(sample, ball, search[1], span, zeros, ASCENT, EXACT, BLOCK)
        return distance, slope
    else:
        _, low, high = ball
        free, fixed = zeros, zeros
        for start in range(span[0], span[1], BLOCK):
            x, x0 = moved(sample, start + tl.arange(0, BLOCK), span[1], ASCENT)
            stopped, limit = stopped_by_box(x - x0, x0, search[0], low, high)
            free += tl.where(stopped, 0.0, square(x - x0))
            fixed += tl.where(stopped, square(limit), 0.0)
        return tl.sum(free, 0), tl.sum(fixed, 0)


@triton.jit
def l1_sums(sample, ball, threshold, span, zeros, ASCENT: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    """Distance from the centre at ``threshold``, how fast it falls, and the largest distance of a coordinate at 0.

    Summed in float64: equal terms, which sign steps leave behind, round alike and would add up their errors.
    """
    _, low, high = ball
    distances, slopes, farthest = zeros.to(tl.float64), zeros.to(tl.int32), zeros
    for start in range(span[0], span[1], BLOCK):
        x, x0 = moved(sample, start + tl.arange(0, BLOCK), span[1], ASCENT)
        delta = x - x0
        # What is infinitely far counts as nothing, so that the threshold is finite.
        delta = tl.where(tl.abs(delta) == float("inf"), 0.0, delta)
        distance, slope = l1_terms(delta, x0, threshold, low, high, EXACT)
        distances += distance
        slopes += slope
        farthest = tl.maximum(farthest, tl.abs(delta))
    return tl.sum(distances, 0), tl.sum(slopes, 0), tl.max(farthest, 0).to(tl.float64)


@triton.jit
def begin_search(sums, radius, NORM: tl.constexpr, EXACT: tl.constexpr):
    """The search, from what :func:`distance_sums` gives."""
    if NORM == L1:
        distance, slope, farthest = sums
        zero, none = tl.full((), 0.0, tl.float64), tl.full((), 0, tl.int32)
        eps, goal, _ = _l1_goal(radius)
        outside = distance > eps
        # At the far end the centre itself is left.
        far = tl.where(outside, farthest, 0.0)
        bracket = far, zero, none, zero, distance, slope.to(tl.int32), far
        return _l1_try(outside & (goal > 0), none, bracket, goal)
    else:
        whole0, whole1, whole2, clipped0, clipped1, clipped2 = sums
        distance = norm_of_squares((whole0, whole1, whole2))
        reach = norm_of_squares((clipped0, clipped1, clipped2))
        scale = tl.where(reach > radius, divide(radius, distance), 1.0)
        # Where the box stops nothing at the far end it stops nothing on the way.
        rising = (scale < 1) & (distance != reach) & EXACT
        return scale, tl.full((), 0, tl.int32), rising


@triton.jit
def advance(search, sums, radius, NORM: tl.constexpr):
    """The search after a pass, from what :func:`pass_sums` gave."""
    if NORM == L1:
        far, t, trying, passes, far_distance, far_slope, near, near_distance, near_slope, width = search
        distance, slope = sums[0], sums[1].to(tl.int32)
        _, goal, tolerance = _l1_goal(radius)
        above = distance - goal
        going = trying & (t > near) & (t < far) & ((above > tolerance) | (above < -tolerance)) & (passes < _L1_PASSES)
        is_near, is_far = trying & (above > tolerance), trying & ~(above > tolerance)
        near, far = tl.where(is_near, t, near), tl.where(is_far, t, far)
        near_distance = tl.where(is_near, distance, near_distance)
        far_distance = tl.where(is_far, distance, far_distance)
        near_slope, far_slope = tl.where(is_near, slope, near_slope), tl.where(is_far, slope, far_slope)
        return _l1_try(going, passes, (far, far_distance, far_slope, near, near_distance, near_slope, width), goal)
    else:
        scale, passes, rising = search
        raised = tl.where(rising, newton(scale, radius, sums[0], sums[1]), scale)
        return raised, passes + 1, (raised > scale) & (passes + 1 < _NEWTON_PASSES)


@triton.jit
def searching(search):
    """Tell whether the search needs another pass."""
    return search[2]


@triton.jit
def finish_search(
    search,
    sample,
    ball,
    span,
    zeros,
    NORM: tl.constexpr,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The search with all the passes that it still needs."""
    while searching(search):
        sums = pass_sums(sample, ball, search, span, zeros, NORM, ASCENT, EXACT, BLOCK)
        search = advance(search, sums, ball[0], NORM)
    return search


@triton.jit
def write_projection(
    out_ptr,
    gathered_ptr,
    sample,
    ball,
    found,
    span,
    NORM: tl.constexpr,
    ASCENT: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the projection with the scale or threshold that was found, and the direction that a momentum gathered."""
    radius, low, high = ball
    for start in range(span[0], span[1], BLOCK):
        column = start + tl.arange(0, BLOCK)
        x, x0 = moved(sample, column, span[1], ASCENT)
        if NORM == L2:
            projected = clamp(shrink(x, x0, x - x0, found), low, high)
        elif NORM == L1:
            soft = soften(x - x0, found)
            projected = clamp(tl.where(found > 0, move_inside(x0, soft), x), low, high)
        else:
            projected = project_linf(x, x0, radius, low, high, EXACT)
        # A search finds every point inside of a ball whose radius is NaN.
        projected = tl.where(radius == radius, projected, radius)
        tl.store(out_ptr + column, narrow(projected, out_ptr.dtype.element_ty), column < span[1])
        if gathered_ptr is not None:
            gathered = narrow(along(sample[2][0], column, span[1]), gathered_ptr.dtype.element_ty)
            tl.store(gathered_ptr + column, gathered, column < span[1])


@triton.jit
def _l1_goal(radius):
    """Radius, the distance that is looked for and how far from it one may end, float64."""
    eps = radius.to(tl.float64)
    # In float32 half of what the norm may exceed the radius by, 4 * 2^-23; the other half is left to other rounding.
    tolerance = eps * (2.0**-46 if radius.dtype == tl.float64 else 2.0**-22)
    return eps, eps - tolerance, tolerance


@triton.jit
def _l1_try(trying, passes, bracket, goal):
    """The search with the next threshold."""
    far, far_distance, far_slope, near, near_distance, near_slope, width = bracket
    # Every second pass that has not halved the bracket is followed by one that does.
    stalled = (passes > 0) & (passes % 2 == 0) & (far - near > width / 2)
    width = tl.where(passes % 2 == 0, far - near, width)
    proposal = l1_proposal(goal, near, near_distance, near_slope, far, far_distance, far_slope)
    within = (proposal > near) & (proposal < far) & (stalled == 0)
    t = tl.where(within, proposal, near + (far - near) / 2)
    return far, t, trying, passes + 1, far_distance, far_slope, near, near_distance, near_slope, width
