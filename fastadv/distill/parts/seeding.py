"""Random numbers that follow from a seed and labels alone: resume needs no state of a generator."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a non-negative int64 that depends on ``seed`` and every label, e.g. derive_seed(0, "step", 17)."""
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a CPU generator seeded by derive_seed: the same draws on whatever device trains."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))
