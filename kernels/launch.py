"""Launching kernels: block sizes, warps, device and compile options, in one place."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

# Elements of a program that takes several rows.
_TILE = 512


def accumulator(x: Tensor) -> torch.dtype:
    """Return the dtype that sums over ``x`` are taken in."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def block(length: int, x: Tensor) -> int:
    """Return the columns of a program's tile: the power of two that covers ``length``, at most 4 KiB once widened."""
    return min(triton.next_power_of_2(length), 4096 // accumulator(x).itemsize)


def channels_last(x: Tensor) -> bool:
    """Tell whether a sample's elements lie pixel by pixel, not in their logical order; ValueError where in neither."""
    if x.is_contiguous():
        return False
    if x.dim() < 3 or not x.movedim(1, -1).is_contiguous():
        raise ValueError("expected a contiguous or channels_last tensor")
    return True


def rows_at_once(columns: int) -> int:
    """Return the rows of a program's tile whose rows have ``columns``, a power of two."""
    return max(_TILE // columns, 1)


def launch(kernel: Any, programs: int, tensor: Tensor, *arguments: Any, elements: int, **constants: Any) -> None:
    """Start ``programs`` programs of ``kernel`` on the current stream of the device of ``tensor``, its first argument.

    ``elements`` is how many of them a program holds at once, a power of two. FP fusion is off: a product rounded
    into a sum would differ from the reference.
    """
    device = torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
    with device:
        # Four elements a thread; more than eight warps would leave a thread too few registers.
        warps = min(max(elements // 128, 1), 8)
        # In float64 NVIDIA's assembler would spill for an occupancy that it aims at.
        limit = {"maxnreg": 255} if tensor.dtype is torch.float64 and torch.version.hip is None else {}
        kernel[(programs,)](tensor, *arguments, **constants, num_warps=warps, enable_fp_fusion=False, **limit)
