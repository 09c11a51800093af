"""Random numbers of the losses themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.ops.ball import random_start

# Attacks number their samples from zero: with the same seed these numbers share nothing with their noise.
_STREAM = 1 << 62


def uniform(ids: Tensor, columns: int, *, seed: int | Tensor) -> Tensor:
    """Independent numbers in [0, 1], one row for each of ``ids``: [N, columns] float32.

    ids: int64 [N], not negative and below 2^62; the same id and seed give the same row in any batch.
    """
    half = torch.full((len(ids), columns), 0.5, device=ids.device)
    return random_start(half, eps=0.5, bounds=None, seed=seed, sample_ids=ids + _STREAM)
