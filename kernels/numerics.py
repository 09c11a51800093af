"""Arithmetic of the kernels that rounds and treats NaN as the reference does."""

import triton
import triton.language as tl


@triton.jit
def widen(x):
    """``x`` in the precision that sums are taken in: float64 stays, everything else becomes float32."""
    if x.dtype == tl.float64:
        return x
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """``x`` rounded to nearest even in ``dtype``."""
    if dtype == tl.bfloat16:
        # Done by hand, since Triton's interpreter truncates.
        word = x.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
        return tl.where(x == x, rounded, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def scalar(value, like):
    """``value`` in the dtype of ``like``. Kernels take floats as float64, lest a float64 op lose digits."""
    return tl.full((), value, like.dtype)


@triton.jit
def per_sample(value, values, sample, mask, like):
    """Float ``value``, or where ``values`` [N] is given its entries for ``sample``, in the dtype of ``like``."""
    if values is None:
        return scalar(value, like)
    else:
        return tl.load(values + sample, mask).to(like.dtype)


@triton.jit
def weighted(scale, weights, sample, mask, like):
    """Factor of the losses of ``sample``: ``scale``, times its entries of ``weights`` [N] where that is given."""
    factor = tl.zeros_like(like) + scalar(scale, like)
    if weights is not None:
        factor *= tl.load(weights + sample, mask).to(like.dtype)
    return factor


@triton.jit
def divide(x, y):
    """``x / y`` with IEEE rounding."""
    if x.dtype == tl.float64:
        return x / y
    else:
        return tl.div_rn(x, y)


@triton.jit
def square(x):
    return x * x


@triton.jit
def square_root(x):
    """Square root with IEEE rounding."""
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def shrinkage(like):
    """A power of two and its inverse: the square of what overflows when squared does not after a product with it."""
    if like.dtype == tl.float64:
        return scalar(2.0**-600, like), scalar(2.0**600, like)
    else:
        return scalar(2.0**-100, like), scalar(2.0**100, like)


@triton.jit
def add_at_all_scales(sums, term):
    """``sums`` with the squares of ``term`` as it is, shrunk and stretched, lest all over- or underflow."""
    shrink, stretch = shrinkage(term)
    return sums[0] + square(term), sums[1] + square(shrink * term), sums[2] + square(stretch * term)


@triton.jit
def norm_of_squares(sums):
    """Norm, given its sum of squares at all scales; NaN where any term is."""
    plain, shrunk, stretched = sums
    shrink, stretch = shrinkage(plain)
    norm = tl.where(plain <= shrink, square_root(stretched) * shrink, square_root(plain))
    return tl.where(plain >= stretch, square_root(shrunk) * stretch, norm)


@triton.jit
def minimum(x, y):
    """Smaller one; NaN where either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def maximum(x, y):
    """Larger one; NaN where either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamp(x, low, high):
    """``x`` between ``low`` and ``high``; NaN where any is."""
    return minimum(maximum(x, low), high)


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for NaN."""
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@triton.jit
def bits(x):
    """Bits of a float as a signed integer, which orders floats that are not negative."""
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True)
    else:
        return x.to(tl.int32, bitcast=True)


@triton.jit
def next_towards(x, goal):
    """Float next to ``x`` in the direction of ``goal``, which differs from ``x``; both finite."""
    rising = goal > x
    away_from_zero = (x > 0) == rising
    neighbour = (bits(x) + tl.where(away_from_zero, 1, -1)).to(x.dtype, bitcast=True)
    tiniest = (bits(tl.zeros_like(x)) + 1).to(x.dtype, bitcast=True)
    return tl.where(x == 0, tl.where(rising, tiniest, -tiniest), neighbour)
