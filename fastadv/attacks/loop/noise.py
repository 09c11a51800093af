"""The random numbers of an attack: from a seed and the identity of each sample, without any global random state."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from fastadv.attacks.model import values
from fastadv.ops import checks

_MASK = (1 << 64) - 1
_calls = itertools.count()


class Noise(NamedTuple):
    """Seed and identities that decide the noise of each sample of a batch.

    seed: an int, or an int64 tensor without dimensions on the device of the samples; None is a new one at each call.
    sample_ids: int64 [N], below 2^32; None is 0 ... N - 1.
    """

    seed: int | Tensor | None = None
    sample_ids: Tensor | None = None

    def check(self, x: Tensor) -> None:
        """Raise TypeError or ValueError where this cannot be the noise of ``x`` [N, ...]."""
        if self.seed is not None:
            checks.seed(self.seed, x)
        if self.sample_ids is not None:
            check_ids(self.sample_ids, x)

    def of_copies(self, x: Tensor, copies: int) -> dict[str, Any]:
        """Return seed and identities of ``copies`` copies of each sample of ``x`` [N, ...].

        These are the keywords of :func:`fastadv.random_start`, sample_ids [N * copies] being ``id + (copy << 32)``.
        """
        self.check(x)
        ids = torch.arange(x.shape[0], device=x.device) if self.sample_ids is None else self.sample_ids
        ids = (ids[:, None] + (torch.arange(copies, device=x.device) << 32)).flatten()
        return {"seed": resolve(self.seed), "sample_ids": ids}


def check_ids(sample_ids: Tensor, x: Tensor) -> None:
    """Raise TypeError or ValueError unless ``sample_ids`` are int64 [N] beside ``x`` [N, ...], on a CPU in [0, 2^32).

    With larger ones the copies of a sample would have the noise of another.
    """
    checks.int64("sample_ids", sample_ids, [x.shape[0]], x)
    if values.readable(sample_ids, None) and sample_ids.numel():
        least, most = (int(value) for value in sample_ids.aminmax())
        if least < 0 or most >> 32:
            raise ValueError(f"sample_ids must lie in [0, 2^32), got values from {least} to {most}")


def resolve(seed: int | Tensor | None) -> int | Tensor:
    """Return ``seed``; for None derive one from torch.initial_seed(), the number of this call and the distributed rank.

    Raises ValueError for None under torch.compile.
    """
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
    """Return a seed of its own for each ``number`` of a whole that is seeded by ``seed``."""
    return _mix(_mix(seed & _MASK) ^ number)


def _mix(x: int) -> int:
    """Apply one step of SplitMix64, a bijection of 64 bits (Steele, Lea, Flood, OOPSLA 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
