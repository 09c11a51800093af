"""Brings the tensors of an op to one dense memory layout, in which a sample is a contiguous run."""

from __future__ import annotations

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def aligned(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """``x`` and ``others``, all of one shape, in x's layout (contiguous or channels_last) and their widest dtype.

    A tensor that fits comes back as it is; broadcast, sliced or mixed layouts are copied once. An ``x`` in any other
    layout is made contiguous.
    """
    # The common case first, since it is on the way of every call.
    dtype = x.dtype
    if x.is_contiguous():
        for y in others:
            if y.dtype is not dtype or not y.is_contiguous():
                break
        else:
            return x, *others
    return _converted(x, others)


def widest(x: Tensor, *others: Tensor) -> Tensor:
    """The first of ``x`` and ``others`` that is float64, else ``x``: the op accumulates in its precision."""
    for y in others:
        if y.dtype is torch.float64:
            return y
    return x


def _converted(x: Tensor, others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype = x.dtype
    for y in others:
        dtype = torch.promote_types(dtype, y.dtype)
    x = x if x.dtype is dtype else x.to(dtype)
    memory_format = torch.contiguous_format
    if not x.is_contiguous():
        channels_last = _CHANNELS_LAST.get(x.dim(), torch.contiguous_format)
        if x.is_contiguous(memory_format=channels_last):
            memory_format = channels_last
        else:
            x = x.contiguous()
    fits = [y.dtype is dtype and y.is_contiguous(memory_format=memory_format) for y in others]
    return x, *(y if fit else _copy(y, dtype, memory_format) for y, fit in zip(others, fits, strict=True))


def _copy(y: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    return y.to(dtype=dtype, memory_format=memory_format).contiguous(memory_format=memory_format)
