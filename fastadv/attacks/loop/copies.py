"""Restarts and particles as one more axis of the batch: copy r of sample i is row ``i * copies + r``."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.layout import aligned

T = TypeVar("T")


def repeat(value: T, copies: int) -> T:
    """Every row of a tensor [N, ...] ``copies`` times in its layout; what is no tensor holds for all rows as it is."""
    if not isinstance(value, Tensor) or copies == 1:
        return value
    return aligned(value, value.repeat_interleave(copies, 0))[1]  # type: ignore[return-value]


def copy_ids(x: Tensor, copies: int, sample_ids: Tensor | None = None) -> Tensor:
    """Identities [N * copies] of the copies of ``x`` [N, ...] for :func:`fastadv.random_start`: ``id + (r << 32)``.

    ``sample_ids``: int64 [N], the samples' own identities below 2^32; None is 0 ... N - 1.
    """
    if sample_ids is None:
        sample_ids = torch.arange(x.shape[0], device=x.device)
    else:
        checks.int64("sample_ids", sample_ids, [x.shape[0]], x)
    return (sample_ids[:, None] + (torch.arange(copies, device=x.device) << 32)).flatten()
