"""Losses on distances between features: triplet_margin_loss.

A program takes one triplet, or several where they are short. It reads each row once and writes a gradient of 4
(float64: 8) bytes an element for each input that needs one, and the loss. Rows of up to 1024 (float64: 512) features
stay in registers; longer ones are read in blocks, again (from the cache) for the gradients, and for p = inf once more.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import block, launch, rows_at_once
from fastadv.kernels.loss import empty_results, reduced
from fastadv.kernels.numerics import divide, minimum, per_sample, scalar, sign, square_root, weighted, widen
from fastadv.kernels.rows import load_rows, store_gradient

# The kinds of norm, by its order.
MANHATTAN = tl.constexpr(0)
EUCLIDEAN = tl.constexpr(1)
CHEBYSHEV = tl.constexpr(2)
MINKOWSKI = tl.constexpr(3)
# The order 0 counts the coordinates that differ.
COUNT = tl.constexpr(4)

_KINDS = {0.0: COUNT, 1.0: MANHATTAN, 2.0: EUCLIDEAN, math.inf: CHEBYSHEV}


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    p: float,
    eps: float,
    swap: bool,
    scale: float,
    reduce: bool,
    anchor_grad: bool,
    positive_grad: bool,
    negative_grad: bool,
    margin_n: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.triplet_margin_loss`."""
    samples, features = anchor.shape
    value, grads = empty_results(anchor, (anchor_grad, positive_grad, negative_grad))
    if samples:
        columns = block(features, anchor)
        rows = rows_at_once(columns)
        launch(
            triplet_rows,
            triton.cdiv(samples, rows),
            anchor,
            positive,
            negative,
            margin_n,
            weight,
            value,
            *grads,
            margin,
            p,
            eps,
            scale,
            samples,
            features,
            elements=rows * columns,
            KIND=_KINDS.get(p, MINKOWSKI).value,
            SWAP=swap,
            ROWS=rows,
            BLOCK=columns,
            HELD=features <= columns,
        )
    return reduced(value, scale, reduce), *grads


@triton.jit(do_not_specialize=["samples"])
def triplet_rows(
    anchor_ptr,
    positive_ptr,
    negative_ptr,
    margin_ptr,
    weight_ptr,
    value_ptr,
    anchor_grad_ptr,
    positive_grad_ptr,
    negative_grad_ptr,
    margin: tl.float64,
    p: tl.float64,
    eps: tl.float64,
    scale: tl.float64,
    samples,
    features,
    KIND: tl.constexpr,
    SWAP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = row < samples
    base = row * features
    zeros = widen(tl.zeros([ROWS], anchor_ptr.dtype.element_ty))
    order, shift = scalar(p, zeros), scalar(eps, zeros)
    if HELD:
        held_a = load_rows(anchor_ptr, base, present, 0, features, 0.0, BLOCK)
        held_p = load_rows(positive_ptr, base, present, 0, features, 0.0, BLOCK)
        held_n = load_rows(negative_ptr, base, present, 0, features, 0.0, BLOCK)

    # Distances from anchor to positive, from anchor to negative and from positive to negative.
    near, far, swapped = zeros, zeros, zeros
    for start in range(0, features, BLOCK):
        a = held_a if HELD else load_rows(anchor_ptr, base, present, start, features, 0.0, BLOCK)
        b = held_p if HELD else load_rows(positive_ptr, base, present, start, features, 0.0, BLOCK)
        c = held_n if HELD else load_rows(negative_ptr, base, present, start, features, 0.0, BLOCK)
        mask = (start + tl.arange(0, BLOCK) < features)[None, :]
        near = _gathered(near, a - b + shift, mask, order, KIND)
        far = _gathered(far, a - c + shift, mask, order, KIND)
        if SWAP:
            swapped = _gathered(swapped, b - c + shift, mask, order, KIND)
    near, far, swapped = _root(near, order, KIND), _root(far, order, KIND), _root(swapped, order, KIND)

    # What the slopes of a norm have in common.
    near_factor, far_factor, swapped_factor = zeros, zeros, zeros
    if KIND == EUCLIDEAN:
        near_factor, far_factor, swapped_factor = _inverse(near), _inverse(far), _inverse(swapped)
    if KIND == CHEBYSHEV:
        for start in range(0, features, BLOCK):
            a = held_a if HELD else load_rows(anchor_ptr, base, present, start, features, 0.0, BLOCK)
            b = held_p if HELD else load_rows(positive_ptr, base, present, start, features, 0.0, BLOCK)
            c = held_n if HELD else load_rows(negative_ptr, base, present, start, features, 0.0, BLOCK)
            mask = (start + tl.arange(0, BLOCK) < features)[None, :]
            near_factor += _largest(a - b + shift, near, mask)
            far_factor += _largest(a - c + shift, far, mask)
            if SWAP:
                swapped_factor += _largest(b - c + shift, swapped, mask)
        near_factor, far_factor, swapped_factor = _inverse(near_factor), _inverse(far_factor), _inverse(swapped_factor)

    nearest = far
    if SWAP:
        nearest = minimum(far, swapped)
    gap = per_sample(margin, margin_ptr, row, present, zeros) + near - nearest
    factor = weighted(scale, weight_ptr, row, present, zeros)
    tl.store(value_ptr + row, factor * tl.where(gap < 0, 0.0, gap), present)

    # Where it begins the hinge has its slope already, and equal distances share it.
    slope = tl.where(gap >= 0, factor, 0.0)
    by_far, by_swapped = slope, zeros
    if SWAP:
        share = tl.where(far < swapped, 1.0, tl.where(far == swapped, 0.5, 0.0)).to(zeros.dtype)
        by_far, by_swapped = slope * share, slope * (1 - share)
    for start in range(0, features, BLOCK):
        a = held_a if HELD else load_rows(anchor_ptr, base, present, start, features, 0.0, BLOCK)
        b = held_p if HELD else load_rows(positive_ptr, base, present, start, features, 0.0, BLOCK)
        c = held_n if HELD else load_rows(negative_ptr, base, present, start, features, 0.0, BLOCK)
        column = start + tl.arange(0, BLOCK)
        near_pull = slope[:, None] * _slope(a - b + shift, near, near_factor, order, KIND)
        far_pull = by_far[:, None] * _slope(a - c + shift, far, far_factor, order, KIND)
        swapped_pull = tl.zeros_like(far_pull)
        if SWAP:
            swapped_pull = by_swapped[:, None] * _slope(b - c + shift, swapped, swapped_factor, order, KIND)
        store_gradient(anchor_grad_ptr, base, present, column, features, near_pull - far_pull)
        store_gradient(positive_grad_ptr, base, present, column, features, -near_pull - swapped_pull)
        store_gradient(negative_grad_ptr, base, present, column, features, far_pull + swapped_pull)


@triton.jit
def _gathered(total, difference, mask, order, KIND: tl.constexpr):
    """``total`` with what a block of differences adds to the norm of each row, or with the largest of them."""
    size = tl.where(mask, tl.abs(difference), 0.0)
    if KIND == CHEBYSHEV:
        # A reduction to the maximum passes NaN over, and only a sum tells infinity from NaN.
        largest = tl.maximum(total, tl.max(size, 1))
        undefined = tl.sum(tl.where(size == size, 0.0, 1.0), 1) > 0
        return tl.where((total == total) & ~undefined, largest, float("nan"))
    elif KIND == MANHATTAN:
        return total + tl.sum(size, 1)
    elif KIND == EUCLIDEAN:
        return total + tl.sum(size * size, 1)
    elif KIND == COUNT:
        return total + tl.sum(tl.where(size == 0, 0.0, 1.0), 1).to(total.dtype)
    else:
        return total + tl.sum(_power(size, order), 1)


@triton.jit
def _root(total, order, KIND: tl.constexpr):
    """Norm of each row."""
    if KIND == EUCLIDEAN:
        return square_root(total)
    elif KIND == MINKOWSKI:
        return _power(total, divide(scalar(1.0, total), order))
    else:
        return total


@triton.jit
def _largest(difference, norm, mask):
    """Number of differences of each row that are as large as its norm."""
    return tl.sum(tl.where(mask & ~(tl.abs(difference) < norm[:, None]), 1.0, 0.0), 1).to(norm.dtype)


@triton.jit
def _inverse(x):
    return tl.where(x == 0, 0.0, divide(scalar(1.0, x), x))


@triton.jit
def _slope(difference, norm, factor, order, KIND: tl.constexpr):
    """Derivative of the norm w.r.t. each difference; zero where either is zero."""
    size, norm = tl.abs(difference), norm[:, None]
    if KIND == MANHATTAN:
        return sign(difference)
    elif KIND == EUCLIDEAN:
        return difference * factor[:, None]
    elif KIND == CHEBYSHEV:
        return tl.where(size < norm, 0.0, sign(difference) * factor[:, None])
    elif KIND == COUNT:
        return tl.zeros_like(difference)
    else:
        power = sign(difference) * _power(divide(size, norm), order - 1)
        return tl.where((size == 0) | (norm == 0), 0.0, power)


@triton.jit
def _power(x, exponent):
    """``x``, which is not negative, to the power of ``exponent``, which is not zero."""
    return tl.exp(exponent * tl.log(x))
