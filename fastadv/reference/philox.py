"""Philox4x32-10 on int64 tensors.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _multiply(multiplier: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of ``multiplier * x``; the 64-bit product would overflow a signed integer."""
    low = multiplier * (x & 0xFFFF)
    high = multiplier * (x >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(seed: Tensor, block: Tensor, sample_ids: Tensor) -> Tensor:
    """Four words of 32 bits for every (sample, block): [N, B, 4] int64 in [0, 2**32).

    The key is the 64-bit ``seed`` (0-dim), the counter (block, sample id), low word first, for ``block`` [B] or [N, B]
    and ``sample_ids`` [N], all int64.
    """
    key = [seed & _MASK, (seed >> 32) & _MASK]
    shape = (sample_ids.shape[0], block.shape[-1])
    words = [block & _MASK, (block >> 32) & _MASK, sample_ids[:, None] & _MASK, (sample_ids[:, None] >> 32) & _MASK]
    c0, c1, c2, c3 = (word.expand(shape) for word in words)
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ key[0], low1, high0 ^ c3 ^ key[1], low0
        key = [(k + weyl) & _MASK for k, weyl in zip(key, _WEYL, strict=True)]
    return torch.stack((c0, c1, c2, c3), dim=-1)
