"""The losses that attacks ascend: attack_loss.

Cross-entropy, log-odds and divergence are losses of :mod:`fastadv.kernels.rows`. The kinds that rank logits have their
own kernel: a program takes one row, or several where C is small, finds the 2 to 4 largest logits in as many passes, and
writes loss and gradient. Rows of up to 1024 (float64: 512) classes stay in registers; longer ones are read again, from
the cache, in each pass.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels import rows
from fastadv.kernels.launch import block, launch, rows_at_once
from fastadv.kernels.loss import empty_results, reduced
from fastadv.kernels.numerics import divide, scalar, weighted, widen
from fastadv.kernels.rows import load_logits, store_gradient

_SOFTMAX = {0: rows.CROSS_ENTROPY, 1: rows.KL, 5: rows.LOG_ODDS}
# The ranks that the other kinds take: DLR, DLR towards the target, CW.
_RANKS = {2: 3, 3: 4, 4: 2}


def attack_loss(
    logits: Tensor,
    target: Tensor | None,
    kind: int,
    scale: float,
    reduce: bool,
    grad: bool,
    reference: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.attack_loss`."""
    if kind in _SOFTMAX:
        loss = _SOFTMAX[kind]
        return rows.logit_loss(loss, logits, reference, target, (grad, False), scale, reduce, weight)[:2]
    samples, classes = logits.shape
    value, grads = empty_results(logits, [grad])
    if samples:
        columns = block(classes, logits)
        count = rows_at_once(columns)
        launch(
            gap_rows,
            triton.cdiv(samples, count),
            logits,
            target,
            reference,
            weight,
            value,
            *grads,
            scale,
            samples,
            classes,
            elements=count * columns,
            RANKS=_RANKS[kind],
            ROWS=count,
            BLOCK=columns,
            HELD=classes <= columns,
        )
    return reduced(value, scale, reduce), *grads


@triton.jit(do_not_specialize=["samples"])
def gap_rows(
    logits_ptr,
    target_ptr,
    truth_ptr,
    weight_ptr,
    value_ptr,
    grad_ptr,
    scale: tl.float64,
    samples,
    classes,
    RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
):
    """(z_rival - z_own) / spread, by the ranks that it takes.

    2, CW: the rival is the largest but the target, the spread is 1. 3, DLR: the same over z_(1) - z_(3). 4, DLR towards
    the target: that is the rival of the truth, the spread is z_(1) - (z_(3) + z_(4)) / 2.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = row < samples
    base = row * classes
    zeros = widen(tl.zeros([ROWS], logits_ptr.dtype.element_ty))
    target = tl.load(target_ptr + row, present, other=0)
    held = load_logits(logits_ptr, None, base, present, 0, classes, BLOCK)

    none = tl.full([ROWS], -1, tl.int64)
    z1, c1 = _next_rank(logits_ptr, held, base, present, classes, zeros + float("inf"), none, BLOCK, HELD)
    z2, c2 = _next_rank(logits_ptr, held, base, present, classes, z1, c1, BLOCK, HELD)
    z3, c3, z4, c4 = z2, c2, z2, c2
    if RANKS > 2:
        z3, c3 = _next_rank(logits_ptr, held, base, present, classes, z2, c2, BLOCK, HELD)
    if RANKS > 3:
        z4, c4 = _next_rank(logits_ptr, held, base, present, classes, z3, c3, BLOCK, HELD)

    if RANKS == 4:
        own = tl.load(truth_ptr + row, present, other=0)
        rival = target
        gap = _logit(logits_ptr, base, present, rival, classes) - _logit(logits_ptr, base, present, own, classes)
        spread = ((z1 - z3) + (z1 - z4)) * 0.5 + scalar(1e-12, zeros)
    else:
        own = target
        rival = tl.where(c1 == own, c2, c1)
        gap = tl.where(c1 == own, z2, z1) - _logit(logits_ptr, base, present, own, classes)
        spread = zeros + 1
        if RANKS == 3:
            spread = (z1 - z3) + scalar(1e-12, zeros)
    loss = divide(gap, spread)
    factor = weighted(scale, weight_ptr, row, present, zeros)
    tl.store(value_ptr + row, factor * loss, present)

    if grad_ptr is not None:
        by_gap, by_spread = divide(zeros + 1, spread), divide(-loss, spread)
        # Of an undefined loss every derivative is undefined.
        elsewhere = tl.where(loss == loss, zeros, loss)
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            grad = elsewhere[:, None] + _at(column, rival, by_gap) - _at(column, own, by_gap)
            if RANKS > 2:
                grad += _at(column, c1, by_spread)
            if RANKS == 3:
                grad -= _at(column, c3, by_spread)
            if RANKS == 4:
                grad -= _at(column, c3, 0.5 * by_spread) + _at(column, c4, 0.5 * by_spread)
            store_gradient(grad_ptr, base, present, column, classes, factor[:, None] * grad)


@triton.jit
def _next_rank(ptr, held, base, present, classes, above, above_class, BLOCK: tl.constexpr, HELD: tl.constexpr):
    """Largest logit of each row below ``above``, and its class; NaN where any logit is.

    Of equal logits the lower class ranks first, so one that equals ``above`` is below it in the classes that follow.
    """
    best, best_class = tl.full(above.shape, -float("inf"), above.dtype), tl.zeros_like(above_class) + classes
    for start in range(0, classes, BLOCK):
        column = (start + tl.arange(0, BLOCK)).to(tl.int64)[None, :]
        x = held if HELD else load_logits(ptr, None, base, present, start, classes, BLOCK)
        left = (x < above[:, None]) | ((x == above[:, None]) & (column > above_class[:, None]))
        left &= column < classes
        top = tl.max(tl.where(left, x, -float("inf")), 1)
        top_class = tl.min(tl.where(left & (x == top[:, None]), column, classes), 1)
        rises = (top > best) | ((top == best) & (top_class < best_class))
        undefined = tl.max((x != x).to(tl.int32), 1) > 0
        best = tl.where(undefined, float("nan"), tl.where(rises, top, best))
        best_class = tl.where(rises, top_class, best_class)
    return best, best_class


@triton.jit
def _logit(ptr, base, present, index, classes):
    """Logit of class ``index`` of each row; NaN where that is no class, which is not read."""
    valid = (index >= 0) & (index < classes)
    return tl.where(valid, widen(tl.load(ptr + base + tl.where(valid, index, 0), present, other=0)), float("nan"))


@triton.jit
def _at(column, index, x):
    """``x`` in each row's column ``index``, 0 in all others."""
    return tl.where(column[None, :] == index[:, None], x[:, None], 0.0)
