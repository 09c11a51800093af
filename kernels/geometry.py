"""Steps and projections, as device functions on tiles: what project, random_start, pgd_step and svgd_step share."""

import triton
import triton.language as tl

from fastadv.kernels.numerics import clamp, divide, next_towards, sign, square_root

# Norms, and the step that is steepest for each; a raw step is not normalised.
LINF = tl.constexpr(0)
L2 = tl.constexpr(1)
RAW = tl.constexpr(2)


@triton.jit
def displacement(direction, step_size, length, ASCENT: tl.constexpr):
    """The step along ``direction``, whose l2 norm is ``length``; NaN moves nothing but in a raw step."""
    if ASCENT == LINF:
        return step_size * sign(direction)
    elif ASCENT == L2:
        step = step_size * divide(direction, length)
        return tl.where((length > 0) & (length < float("inf")), step, 0.0)
    else:
        return step_size * direction


@triton.jit
def project_linf(x, x0, eps, low, high, EXACT: tl.constexpr):
    """``x`` projected onto the linf ball around ``x0`` and the box, to the bit of the reference."""
    if EXACT:
        return clamp(x, clamp(x0 - eps, low, high), clamp(x0 + eps, low, high))
    else:
        return clamp(x0 + clamp(x - x0, -eps, eps), low, high)


@triton.jit
def towards_centre(moved, centre, step):
    """``centre + step``, of which ``moved`` is the rounded value, rounded towards the centre: never out of the ball."""
    return tl.where(tl.abs(moved - centre) > tl.abs(step), next_towards(moved, centre), moved)


@triton.jit
def shrink(x, x0, delta, scale):
    """``x0 + scale * delta`` rounded towards ``x0``; ``x`` where scale is 1."""
    step = scale * delta
    return tl.where(scale < 1, towards_centre(x0 + step, x0, step), x)


@triton.jit
def scale_divisor(largest):
    """What to divide by so that squares neither overflow nor underflow."""
    return tl.where((largest > 0) & (largest < float("inf")), largest, 1.0)


@triton.jit
def stopped_by_box(delta, x0, scale, low, high):
    """Which coordinates of ``x0 + scale * delta`` leave the box, and how far from ``x0`` it stops each."""
    step = scale * delta
    below, above = low - x0, high - x0
    return (step < below) | (step > above), tl.where(step < 0, below, above)


@triton.jit
def newton(scale, eps, free, fixed):
    """The next scale, from the squared norm ``free`` of what moves and ``fixed`` of what the box stopped."""
    root = square_root(divide(tl.maximum(eps * eps - fixed, 0.0), free))
    return tl.where((free > 0) & (scale < 1), tl.maximum(scale, tl.minimum(root, 1.0)), scale)
