"""Interpolation between the samples of a batch: mix, and its backward pass.

A program takes a (sample, block of elements). ``mix_elements`` reads the block and its partner's and writes the
result: 3 x itemsize bytes an element. ``gather_elements`` looks through the permutation for the samples that were mixed
with its own, in order, so that an index taken twice is added up in one fixed order and without atomics: one search for
each, and one that finds no more.
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
    return _launch(gather_elements, grad, lam, permutation, lam_n)


def _launch(kernel: triton.JITFunction, x: Tensor, lam: float, permutation: Tensor, lam_n: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    if x.numel():
        samples = x.shape[0]
        elements = x.numel() // samples
        columns = block(elements, x)
        blocks = triton.cdiv(elements, columns)
        arguments = (permutation, out, lam, 1 - lam, lam_n, samples, elements, blocks)
        launch(kernel, samples * blocks, x, *arguments, elements=columns, BLOCK=columns)
    return out


@triton.jit
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


@triton.jit
def gather_elements(
    grad_ptr,
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
    own = widen(tl.load(grad_ptr + sample * elements + column, mask, other=0))
    share, _ = _shares(lam, rest, lam_ptr, sample, own)
    total = share * own
    other = _next_mixed(permutation_ptr, sample, -1, samples, BLOCK)
    while other < samples:
        _, others_share = _shares(lam, rest, lam_ptr, other, own)
        total += others_share * widen(tl.load(grad_ptr + other * elements + column, mask, other=0))
        other = _next_mixed(permutation_ptr, sample, other, samples, BLOCK)
    tl.store(out_ptr + sample * elements + column, narrow(total, out_ptr.dtype.element_ty), mask)


@triton.jit
def _next_mixed(permutation_ptr, sample, last, samples, BLOCK: tl.constexpr):
    """The next sample after ``last`` that was mixed with ``sample``, int64; ``samples`` where there is none."""
    following = tl.zeros_like(sample) + samples
    for start in range(0, samples, BLOCK):
        other = start + tl.arange(0, BLOCK)
        index = tl.load(permutation_ptr + other, other < samples, other=-1)
        found = (index == sample) & (other > last)
        following = tl.minimum(following, tl.min(tl.where(found, other, samples), 0))
    return following


@triton.jit
def _shares(lam, rest, lam_ptr, sample, like):
    """Factors of a sample and its partner. Of one number for all, Python has taken the difference."""
    if lam_ptr is None:
        return scalar(lam, like), scalar(rest, like)
    else:
        own = tl.load(lam_ptr + sample).to(like.dtype)
        return own, 1 - own
