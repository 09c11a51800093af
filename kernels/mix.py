"""Interpolation between the samples of a batch: mix, and its backward pass.

A program takes a (sample, block of elements). ``mix_elements`` reads the block and its partner's and writes the
result: 3 x itemsize bytes an element. ``gather_elements`` reads the samples that were mixed with its own, which a
stable sort of the permutation has brought together, so that an index taken twice is added up in one fixed order and
without atomics. Neither is compiled anew for another size of the batch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import block, launch
from fastadv.kernels.numerics import narrow, scalar, widen


def mix(x: Tensor, lam: float, permutation: Tensor, lam_n: Tensor | None) -> Tensor:
    """Launcher of :func:`fastadv.mix`."""
    return _launch(mix_elements, x, lam, permutation, lam_n)


def mix_backward(grad: Tensor, lam: float, permutation: Tensor, lam_n: Tensor | None) -> Tensor:
    """Launcher of the backward pass of :func:`fastadv.mix`."""
    taken, order = torch.sort(permutation, stable=True)
    # Those of sample n are order[first[n]] to order[first[n + 1]]; an index that is none belongs to nobody.
    first = torch.searchsorted(taken, torch.arange(len(taken) + 1, device=taken.device))
    return _launch(gather_elements, grad, lam, order, lam_n, first)


def _launch(
    kernel: triton.JITFunction, x: Tensor, lam: float, indices: Tensor, lam_n: Tensor | None, *more: Tensor
) -> Tensor:
    out = torch.empty_like(x)
    if x.numel():
        samples = x.shape[0]
        elements = x.numel() // samples
        columns = block(elements, x)
        blocks = triton.cdiv(elements, columns)
        arguments = (indices, *more, out, lam, 1 - lam, lam_n, samples, elements, blocks)
        launch(kernel, samples * blocks, x, *arguments, elements=columns, BLOCK=columns)
    return out


@triton.jit(do_not_specialize=["samples"])
def mix_elements(
    x_ptr,
    permutation_ptr,
    out_ptr,
    lam: tl.float64,
    rest: tl.float64,
    lam_ptr,
    samples,
    elements,
    blocks,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    column = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = column < elements
    own = widen(tl.load(x_ptr + sample * elements + column, mask, other=0))
    index = tl.load(permutation_ptr + sample)
    valid = (index >= 0) & (index < samples)
    partner = widen(tl.load(x_ptr + tl.where(valid, index, 0) * elements + column, mask, other=0))
    share, partners_share = _shares(lam, rest, lam_ptr, sample, own)
    mixed = tl.where(valid, share * own + partners_share * partner, float("nan"))
    tl.store(out_ptr + sample * elements + column, narrow(mixed, out_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["samples"])
def gather_elements(
    grad_ptr,
    order_ptr,
    first_ptr,
    out_ptr,
    lam: tl.float64,
    rest: tl.float64,
    lam_ptr,
    samples,
    elements,
    blocks,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    column = program % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = column < elements
    own = widen(tl.load(grad_ptr + sample * elements + column, mask, other=0))
    share, _ = _shares(lam, rest, lam_ptr, sample, own)
    total = share * own
    at, last = tl.load(first_ptr + sample), tl.load(first_ptr + sample + 1)
    while at < last:
        other = tl.load(order_ptr + at)
        _, others_share = _shares(lam, rest, lam_ptr, other, own)
        total += others_share * widen(tl.load(grad_ptr + other * elements + column, mask, other=0))
        at += 1
    tl.store(out_ptr + sample * elements + column, narrow(total, out_ptr.dtype.element_ty), mask)


@triton.jit
def _shares(lam, rest, lam_ptr, sample, like):
    """Factors of a sample and its partner. Of one number for all, Python has taken the difference."""
    if lam_ptr is None:
        return scalar(lam, like), scalar(rest, like)
    else:
        own = tl.load(lam_ptr + sample).to(like.dtype)
        return own, 1 - own
