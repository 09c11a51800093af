"""The k-th largest of many magnitudes, by radix selection.

Magnitudes are ordered as their bits are. A pass finds eight more of these, from the highest on, by a histogram of all
that begin with those found so far. Zero, and NaN that counts as zero, are never chosen.

A selection is the bits found so far, how many magnitudes are above all that begin with them, how many reach them, and
whether more bits are needed; not where exactly k reach them, nor where fewer than k are above zero.
"""

import triton
import triton.language as tl

from fastadv.kernels.geometry import magnitude_bits
from fastadv.kernels.numerics import scalar

DIGIT = tl.constexpr(8)
BINS = tl.constexpr(256)


@triton.jit
def words(x):
    """Bits of magnitudes, without the sign, as unsigned integers."""
    magnitude = magnitude_bits(x)
    if x.dtype == tl.float64:
        return magnitude.to(tl.uint64, bitcast=True) << 1
    else:
        return magnitude.to(tl.uint32, bitcast=True) << 1


@triton.jit
def begin_selection(like):
    """The selection that has found nothing yet, and the shift of its first digit."""
    none = tl.full((), 0, tl.int32)
    return (words(scalar(0.0, like)), none, none, none == 0), none + (like.dtype.primitive_bitwidth - DIGIT)


@triton.jit
def digits_of(x, found, shift):
    """Histogram [BINS] of a tile's next digits, the largest first."""
    word = words(x)
    digit = (word - found) >> shift.to(word.dtype)
    return tl.histogram((digit ^ (BINS - 1)).to(tl.int32), BINS, mask=(word != 0) & (digit < BINS))


@triton.jit
def choose_digit(selection, bins, shift, k):
    """The selection with its next digit, from the histogram of all."""
    found, above, reached, selecting = selection
    from_largest = above + tl.cumsum(bins, 0)
    enough = from_largest >= k
    index = tl.sum((~enough).to(tl.int32), 0)
    higher = tl.max(tl.where(enough, above, from_largest), 0)
    with_digit = tl.min(tl.where(enough, from_largest, 0x7FFFFFFF), 0)
    # Only at the first digit may there be too few.
    some = index < BINS
    digit = (index ^ (BINS - 1)).to(found.dtype) << shift.to(found.dtype)
    found = tl.where(selecting & some, found + digit, found)
    reached = tl.where(selecting, tl.where(some, with_digit, higher), reached)
    above = tl.where(selecting, higher, above)
    return found, above, reached, selecting & some & (reached > k)


@triton.jit
def least_chosen(selection):
    """Bits of the least magnitude that is chosen, as :func:`magnitude_bits` gives them."""
    found = selection[0] >> 1
    if found.dtype == tl.uint64:
        return tl.maximum(found.to(tl.int64, bitcast=True), 1)
    else:
        return tl.maximum(found.to(tl.int32, bitcast=True), 1)
