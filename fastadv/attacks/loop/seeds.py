"""The seed of an attack's noise: the caller's, or one that nobody has had before and that consumes no random state."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, distributed

_MASK = (1 << 64) - 1
_calls = itertools.count()


def resolve(seed: int | Tensor | None) -> int | Tensor:
    """``seed``, or for None one derived from torch.initial_seed(), the number of this call and the distributed rank."""
    if seed is not None:
        return seed
    if torch.compiler.is_compiling():
        raise ValueError(
            "seed must be given under torch.compile, which would repeat the one it was traced with; got None"
        )
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    mixed = 0
    for part in (torch.initial_seed(), next(_calls), rank):
        mixed = _mix(mixed ^ (part & _MASK))
    return mixed


def derived(seed: int, number: int) -> int:
    """A seed of its own for each ``number`` of a whole that is seeded by ``seed``."""
    return _mix(_mix(seed & _MASK) ^ number)


def _mix(x: int) -> int:
    """One step of SplitMix64, a bijection of 64 bits (Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
