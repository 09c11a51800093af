"""Samples and rows shared out among programs: one launch leaves the sums of their parts, those of the next add them up.

How many parts there are depends on the length alone, and every program adds them up in the same order: a result
depends neither on the batch nor on which program is first.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a part, a multiple of every tile, and the longest sample that one program takes alone.
_PART = 8192
_ALONE = 32768
_LONGEST = 2**31 - 2 * _PART
# Parts that are added up at a time.
_TILE = tl.constexpr(64)


def parts_of(elements: int) -> tuple[int, int]:
    """Return among how many programs a sample of so many elements is shared out, and the elements of each but the last.

    Shorter samples are one part: launches and their gaps would take longer than the passes that they share out.
    """
    check_places(elements)
    return (1, elements) if elements <= _ALONE else (triton.cdiv(elements, _PART), _PART)


def check_places(elements: int) -> None:
    """Raise ValueError for a sample of so many elements where a place in it is no int32."""
    if elements > _LONGEST:
        raise ValueError(f"a sample must have at most {_LONGEST} elements for Triton, got {elements}")


def room_for_sums(x: Tensor, count: int, parts: int) -> Tensor:
    """Return room for ``count`` sums of each part of each sample of ``x`` [N, ...]: [N, count, parts], float64."""
    return x.new_empty([x.shape[0], count, parts], dtype=torch.float64)


@triton.jit
def own_part(elements, parts, share):
    """Sample and part of this program, and the part's first element and the one after its last."""
    program = tl.program_id(0).to(tl.int64)
    part = (program % parts).to(tl.int32)
    first = part * share
    return program // parts, part, (first, tl.minimum(first + share, elements))


@triton.jit
def keep_sums(ptr, part, parts, sums):
    """Leave the sums of a part in ``ptr`` [count, parts]."""
    for k in tl.static_range(len(sums)):
        tl.store(ptr + k * parts + part, sums[k].to(tl.float64))


@triton.jit
def numbers_of_part(ptr, part, parts, like, COUNT: tl.constexpr):
    """What :func:`keep_sums` left of a part, in the dtype of ``like``."""
    numbers = (tl.load(ptr + part).to(like.dtype),)
    for k in tl.static_range(1, COUNT):
        numbers += (tl.load(ptr + k * parts + part).to(like.dtype),)  # type: ignore[assignment]
    return numbers


@triton.jit
def sums_of_parts(ptr, parts, like, COUNT: tl.constexpr):
    """Sums over all parts, in the dtype of ``like``, of the numbers that each has left in ``ptr`` [count, parts]."""
    sums = (sum_of_parts(ptr, parts, like),)
    for k in tl.static_range(1, COUNT):
        sums += (sum_of_parts(ptr + k * parts, parts, like),)  # type: ignore[assignment]
    return sums


@triton.jit
def sum_of_parts(ptr, parts, like):
    total = tl.zeros([_TILE], tl.float64)
    for start in range(0, parts, _TILE):
        part = start + tl.arange(0, _TILE)
        total += tl.load(ptr + part, part < parts, other=0)
    return tl.sum(total, 0).to(like.dtype)


@triton.jit
def most_of_parts(ptr, parts, like):
    """The largest of one number of all parts, none of which is negative."""
    most = tl.zeros([_TILE], tl.float64)
    for start in range(0, parts, _TILE):
        part = start + tl.arange(0, _TILE)
        most = tl.maximum(most, tl.load(ptr + part, part < parts, other=0))
    return tl.max(most, 0).to(like.dtype)
