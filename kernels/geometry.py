"""Steps and projections, as device functions on tiles: what project, random_start and the steps share."""

import triton
import triton.language as tl

from fastadv.kernels.numerics import bits, clamp, divide, maximum, next_towards, shrinkage, sign, square_root

# Norms.
LINF = tl.constexpr(0)
L2 = tl.constexpr(1)
L1 = tl.constexpr(2)
# Steps: the one that is steepest for linf, for l2, one that is not normalised, the one that is steepest for l1.
SIGN = tl.constexpr(0)
UNIT = tl.constexpr(1)
RAW = tl.constexpr(2)
LARGEST = tl.constexpr(3)
# By norm.
STEEPEST = (SIGN.value, UNIT.value, LARGEST.value)


@triton.jit
def displacement(direction, step_size, measure, ASCENT: tl.constexpr):
    """Step along ``direction``; NaN moves nothing but in a raw step.

    ``measure`` is what :func:`unit_factors` gives for a unit step, and the bits of the least magnitude that moves for
    one of the largest coordinates, each by ``step_size``.
    """
    if ASCENT == SIGN:
        return by_sign(direction, step_size)
    elif ASCENT == UNIT:
        first, second = measure
        return tl.where(second != 0, first * direction * second, 0.0)
    elif ASCENT == LARGEST:
        return tl.where(magnitude_bits(direction) >= measure, by_sign(direction, step_size), 0.0)
    else:
        return step_size * direction


@triton.jit
def by_sign(direction, step_size):
    """``step_size`` by the sign of ``direction``; where that is 0, nothing, not even of an infinite step."""
    way = sign(direction)
    return tl.where(way == 0, 0.0, step_size * way)


@triton.jit
def unit_factors(step_size, length):
    """Two factors whose product is ``step_size / length``, none of which overflows; 0 where there is no such length."""
    shrink, stretch = shrinkage(length)
    first = tl.where(length <= shrink, stretch, tl.where(length >= stretch, shrink, 1.0))
    some = (length > 0) & (length < float("inf"))
    return first, tl.where(some, divide(step_size, tl.where(some, first * length, 1.0)), 0.0)


@triton.jit
def magnitude_bits(x):
    """Bits of ``|x|``, which order magnitudes; 0 for NaN."""
    return bits(tl.where(x == x, tl.abs(x), 0.0))


@triton.jit
def project_linf(x, x0, eps, low, high, EXACT: tl.constexpr):
    """``x`` projected onto the linf ball around ``x0`` and the box, to the bit of the reference but for zero's sign."""
    if EXACT:
        return clamp(x, clamp(x0 - eps, low, high), clamp(x0 + eps, low, high))
    else:
        return clamp(x0 + clamp(x - x0, -eps, eps), low, high)


@triton.jit
def move_inside(x0, delta):
    """``x0 + delta`` rounded towards ``x0``: rounding never carries a pixel out of the ball."""
    moved = x0 + delta
    return tl.where(tl.abs(moved - x0) > tl.abs(delta), next_towards(moved, x0), moved)


@triton.jit
def shrink(x, x0, delta, scale):
    """``x0 + scale * delta`` rounded towards ``x0``; ``x`` where scale is 1."""
    return tl.where(scale < 1, move_inside(x0, scale * delta), x)


@triton.jit
def stopped_by_box(delta, x0, scale, low, high):
    """Mask of the coordinates of ``x0 + scale * delta`` that leave the box, and the offset at which it stops each."""
    step = scale * delta
    below, above = low - x0, high - x0
    return (step < below) | (step > above), tl.where(step < 0, below, above)


@triton.jit
def newton(scale, eps, free, fixed):
    """Next scale, from the squared norm ``free`` of what moves and ``fixed`` of what the box stopped."""
    root = square_root(divide(tl.maximum(eps * eps - fixed, 0.0), free))
    return tl.where((free > 0) & (scale < 1), tl.maximum(scale, tl.minimum(root, 1.0)), scale)


@triton.jit
def soften(delta, threshold):
    """``delta`` brought nearer to zero by ``threshold``, float64, in two parts lest differences lose digits."""
    most = threshold.to(delta.dtype)
    rest = (threshold - most.to(tl.float64)).to(delta.dtype)
    left = maximum((tl.abs(delta) - most) - rest, 0.0)
    return tl.where(delta < 0, -left, left)


@triton.jit
def l1_terms(delta, x0, threshold, low, high, EXACT: tl.constexpr):
    """Terms of each coordinate of the distance from ``x0``, float64, and of its slope w.r.t. the threshold, int32."""
    soft = soften(delta, threshold)
    reached = clamp(soft, low - x0, high - x0) if EXACT else soft
    return tl.abs(reached).to(tl.float64), ((reached == soft) & (soft != 0)).to(tl.int32)


@triton.jit
def l1_proposal(goal, near, near_distance, near_slope, far, far_distance, far_slope):
    """A threshold between ``near``, outside of the ball, and ``far``, inside, that is nearer to the goal, float64.

    Newton's steps from both ends and the secant each propose one: the one in the middle, as the distance is piecewise
    linear but neither convex nor concave.
    """
    over, under = near_distance - goal, goal - far_distance
    from_near = tl.where(near_slope > 0, near + over / tl.maximum(near_slope, 1).to(tl.float64), float("inf"))
    from_far = tl.where(far_slope > 0, far - under / tl.maximum(far_slope, 1).to(tl.float64), -float("inf"))
    secant = near + (far - near) * (over / (over + under))
    return tl.minimum(tl.maximum(secant, tl.minimum(from_near, from_far)), tl.maximum(from_near, from_far))
