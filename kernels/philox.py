"""Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

The words are those of :mod:`fastadv.reference.philox`: key = seed, counter = (block, sample id), low words first.
``tl.randint4x`` has another counter layout.
"""

import triton
import triton.language as tl

from fastadv.kernels.numerics import scalar


@triton.jit
def philox(seed, block, sample_id):
    """Four words of 32 bits, uint32, for each of ``block``; all arguments int64, ``seed`` and ``sample_id`` 0-dim."""
    key0, key1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = sample_id.to(tl.uint32), (sample_id >> 32).to(tl.uint32)
    first = tl.full((), 0xD2511F53, tl.uint32)
    second = tl.full((), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, first), c0 * first
        high1, low1 = tl.umulhi(c2, second), c2 * second
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 += tl.full((), 0x9E3779B9, tl.uint32)
        key1 += tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def interleave(a, b, c, d):
    """``a0 b0 c0 d0 a1 b1 ...``: four words of every block in the order of the elements they belong to."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def symmetric(word, like):
    """Uniform in [-1, 1), a multiple of 2**-23, exact in float32."""
    return (word >> 8).to(tl.int32).to(like.dtype) * 1.1920928955078125e-07 - 1


@triton.jit
def positive(word, like):
    """Uniform in (0, 1], a multiple of 2**-24, exact in float32."""
    return ((word >> 8) + 1).to(tl.int32).to(like.dtype) * 5.9604644775390625e-08


@triton.jit
def normal_pair(first, second, like):
    """Two standard normal deviates by Box and Muller."""
    radius = tl.sqrt(-2 * tl.log(positive(first, like)))
    angle = scalar(6.283185307179586, like) * positive(second, like)
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
def signed_exponential(word, like):
    """An exponential deviate from the word's upper 24 bits, with the sign that its lowest bit says."""
    deviate = -tl.log(positive(word, like))
    return tl.where((word & 1) == 1, -deviate, deviate)
