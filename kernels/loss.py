"""Parts that all losses share: room for results, the sum over the batch, and the backward pass, scale_grad.

A program of scale_grad multiplies a block of elements. It reads a gradient of 4 (float64: 8) bytes an element and the
incoming gradient, one number or one a row, and writes one element of the result's dtype.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import accumulator, block, launch
from fastadv.kernels.numerics import narrow


def empty_results(x: Tensor, needs_grad: Iterable[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """Return room for the loss [N] of the rows of ``x`` [N, C] and for its gradients [N, C], None where not needed."""
    dtype = accumulator(x)
    grads = [x.new_empty(x.shape, dtype=dtype) if needed else None for needed in needs_grad]
    return x.new_empty(x.shape[0], dtype=dtype), grads


def reduced(value: Tensor, scale: float, reduce: bool) -> Tensor:
    """Return ``value`` or its sum, a second, deterministic launch. The mean of nothing, whose scale is NaN, is NaN."""
    if not reduce:
        return value
    return value.sum() if value.numel() else value.new_full([], 0 * scale)


def scale_grad(grad: Tensor, grad_output: Tensor, dtype: torch.dtype) -> Tensor:
    """``grad`` [N, ...] times ``grad_output``, [] or [N], rounded once to ``dtype``."""
    out = torch.empty_like(grad, dtype=dtype)
    total = grad.numel()
    if total:
        # One number for the whole batch is the number of its only row.
        row = total // grad.shape[0] if grad_output.dim() else total
        columns = block(total, grad)
        programs = triton.cdiv(total, columns)
        launch(scale_rows, programs, grad, grad_output, out, row, total, elements=columns, BLOCK=columns)
    return out


@triton.jit
def scale_rows(grad_ptr, factor_ptr, out_ptr, row, total, BLOCK: tl.constexpr):
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < total
    grad = tl.load(grad_ptr + offset, mask)
    factor = tl.load(factor_ptr + offset // row, mask).to(grad.dtype)
    tl.store(out_ptr + offset, narrow(grad * factor, out_ptr.dtype.element_ty), mask)
