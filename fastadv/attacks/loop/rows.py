"""Restarts and particles as one more axis of the batch: copy r of sample i is row ``i * copies + r``."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from fastadv.ops.layout import aligned

T = TypeVar("T")


def repeat_rows(value: T, copies: int) -> T:
    """Repeat every row of a tensor [N, ...] ``copies`` times, in its layout; return a number as it is."""
    if not isinstance(value, Tensor) or copies == 1 or not value.dim():
        return value
    return aligned(value, value.repeat_interleave(copies, 0))[1]  # type: ignore[return-value]


def repeat_numbers(value: T, x: Tensor, copies: int) -> T:
    """Return a float, a tensor [N] or one that broadcasts to ``x`` [N, ...] for ``copies`` rows a sample of x."""
    if isinstance(value, Tensor) and value.dim() > 1 and (value.dim() < x.dim() or value.shape[0] == 1):
        return value
    return repeat_rows(value, copies)


def choose(rows: Tensor, x: Tensor, otherwise: Tensor) -> Tensor:
    """Return the rows of ``x`` [rows, ...] where the mask ``rows`` [rows] holds, those of ``otherwise`` elsewhere."""
    return torch.where(rows.view(-1, *[1] * (x.dim() - 1)), x, otherwise)
