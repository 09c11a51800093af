"""Every random number of a run follows from its seed and a label: resume needs no generator state."""

import hashlib

import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """A non-negative int64 that depends on `seed` and every label, e.g. derive_seed(0, "step", 17)."""
    digest = hashlib.sha256(repr((seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator seeded by derive_seed: the same draws whatever device trains."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))
