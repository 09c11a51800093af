"""Kernel skeleton of the losses on rows of logits [N, C]: value and gradients in one launch.

Every loss here is made of the cross-entropies of student and teacher against a target and the divergence
``KL(softmax(teacher / T) || softmax(student / T))``; :func:`_value` says how. A program takes one row, or several where
C is small. It reads each network's logits once and writes a gradient of 4 (float64: 8) bytes an element for each
network that wants one, and the loss. Rows of up to 1024 (float64: 512) classes stay in registers; longer ones are read
in blocks, again (from the cache) in each pass: online softmax, divergence with the student's gradient, the teacher's.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import accumulator, block, launch
from fastadv.kernels.numerics import divide, scalar, widen
from fastadv.ops import checks

# The losses.
KL = tl.constexpr(0)
KD = tl.constexpr(1)
LOSS_MATCHING = tl.constexpr(2)
CROSS_ENTROPY = tl.constexpr(3)

# Elements of a program where rows are shorter.
_TILE = 512


def logit_loss(
    loss: int,
    student: Tensor,
    teacher: Tensor | None,
    target: Tensor | None,
    temperature: float,
    alpha: float,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N], or summed [], and the gradients by student and teacher [N, C], empty where not wanted.

    All are multiplied by ``scale * weight``, in the precision that sums are taken in. The sum over the batch is a
    second, deterministic launch. Raises ValueError where a target on the CPU is no class.
    """
    samples, classes = student.shape
    if target is not None:
        checks.target_values(target, classes)
    dtype = accumulator(student)
    value = student.new_empty(samples, dtype=dtype)
    grads = [student.new_empty(student.shape if want else 0, dtype=dtype) for want in (student_grad, teacher_grad)]
    if samples:
        columns = block(classes, student)
        rows = max(_TILE // columns, 1)
        launch(
            logit_loss_rows,
            triton.cdiv(samples, rows),
            student,
            teacher,
            target,
            weight,
            value,
            grads[0] if student_grad else None,
            grads[1] if teacher_grad else None,
            temperature,
            alpha,
            scale,
            samples,
            classes,
            elements=rows * columns,
            LOSS=loss,
            ROWS=rows,
            BLOCK=columns,
            HELD=classes <= columns,
        )
    if reduce:
        # The mean of nothing, whose scale is NaN, is NaN.
        value = value.sum() if samples else value.new_full([], 0 * scale)
    return value, grads[0], grads[1]


@triton.jit(do_not_specialize=["samples"])
def logit_loss_rows(
    student_ptr,
    teacher_ptr,
    target_ptr,
    weight_ptr,
    value_ptr,
    student_grad_ptr,
    teacher_grad_ptr,
    temperature: tl.float64,
    alpha: tl.float64,
    scale: tl.float64,
    samples,
    classes,
    LOSS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
):
    SOFT: tl.constexpr = (LOSS == KL) | (LOSS == KD)
    TEACHER_HARD: tl.constexpr = LOSS == LOSS_MATCHING
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = row < samples
    base = row * classes
    zeros = widen(tl.zeros([ROWS], student_ptr.dtype.element_ty))
    T = scalar(temperature, zeros)
    if HELD:
        held_s = _tile(student_ptr, base, present, 0, classes, BLOCK)
        if teacher_ptr is not None:
            held_t = _tile(teacher_ptr, base, present, 0, classes, BLOCK)

    # Largest logit and sum of exponentials above it: of both at the temperature, and of both as they are.
    soft_s_top, soft_s_sum, soft_t_top, soft_t_sum = zeros - float("inf"), zeros, zeros - float("inf"), zeros
    hard_s_top, hard_s_sum, hard_t_top, hard_t_sum = zeros - float("inf"), zeros, zeros - float("inf"), zeros
    for start in range(0, classes, BLOCK):
        s = held_s if HELD else _tile(student_ptr, base, present, start, classes, BLOCK)
        if target_ptr is not None:
            hard_s_top, hard_s_sum = _online_softmax(hard_s_top, hard_s_sum, s)
        if teacher_ptr is not None:
            t = held_t if HELD else _tile(teacher_ptr, base, present, start, classes, BLOCK)
            if SOFT:
                soft_s_top, soft_s_sum = _online_softmax(soft_s_top, soft_s_sum, divide(s, T))
                soft_t_top, soft_t_sum = _online_softmax(soft_t_top, soft_t_sum, divide(t, T))
            if TEACHER_HARD:
                hard_t_top, hard_t_sum = _online_softmax(hard_t_top, hard_t_sum, t)
    soft_s_log, soft_t_log = tl.log(soft_s_sum), tl.log(soft_t_sum)
    hard_s_log, hard_t_log = tl.log(hard_s_sum), tl.log(hard_t_sum)

    target = tl.zeros([ROWS], tl.int64)
    student_ce, teacher_ce = zeros, zeros
    if target_ptr is not None:
        target = tl.load(target_ptr + row, present, other=0)
        student_ce = _cross_entropy(student_ptr, base, present, target, classes, hard_s_top, hard_s_log)
        if TEACHER_HARD:
            teacher_ce = _cross_entropy(teacher_ptr, base, present, target, classes, hard_t_top, hard_t_log)
    factor = scalar(scale, zeros) + zeros
    if weight_ptr is not None:
        factor *= tl.load(weight_ptr + row, present, other=0).to(zeros.dtype)
    share, rest = scalar(alpha, zeros) + zeros, scalar(1 - alpha, zeros)

    kl = zeros
    by_student, by_teacher, by_soft = _derivatives(student_ce, teacher_ce, share, rest, LOSS)
    if SOFT or (student_grad_ptr is not None):
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            s = held_s if HELD else _tile(student_ptr, base, present, start, classes, BLOCK)
            grad = tl.zeros_like(s)
            if SOFT:
                t = held_t if HELD else _tile(teacher_ptr, base, present, start, classes, BLOCK)
                log_q = _log_softmax(divide(s, T), soft_s_top, soft_s_log)
                log_p = _log_softmax(divide(t, T), soft_t_top, soft_t_log)
                p = tl.exp(log_p)
                kl += tl.sum(tl.where(p == 0, 0.0, p * (log_p - log_q)), 1)
                grad += (by_soft * T)[:, None] * (tl.exp(log_q) - p)
            if student_grad_ptr is not None:
                if target_ptr is not None:
                    q = tl.exp(_log_softmax(s, hard_s_top, hard_s_log))
                    grad += by_student[:, None] * (q - (column[None, :] == target[:, None]).to(q.dtype))
                _store(student_grad_ptr, base, present, column, classes, factor[:, None] * grad)
    value = _value(student_ce, teacher_ce, kl, T, share, rest, LOSS)
    tl.store(value_ptr + row, factor * value, present)

    if teacher_grad_ptr is not None:
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            t = held_t if HELD else _tile(teacher_ptr, base, present, start, classes, BLOCK)
            if SOFT:
                s = held_s if HELD else _tile(student_ptr, base, present, start, classes, BLOCK)
                log_q = _log_softmax(divide(s, T), soft_s_top, soft_s_log)
                log_p = _log_softmax(divide(t, T), soft_t_top, soft_t_log)
                p = tl.exp(log_p)
                grad = (by_soft * T)[:, None] * p * tl.where(p == 0, 0.0, log_p - log_q - kl[:, None])
            else:
                p = tl.exp(_log_softmax(t, hard_t_top, hard_t_log))
                grad = by_teacher[:, None] * (p - (column[None, :] == target[:, None]).to(p.dtype))
            _store(teacher_grad_ptr, base, present, column, classes, factor[:, None] * grad)


@triton.jit
def _value(student_ce, teacher_ce, kl, T, alpha, rest, LOSS: tl.constexpr):
    """The loss; ``rest`` is 1 - alpha."""
    if LOSS == KL:
        return T * T * kl
    elif LOSS == KD:
        return rest * student_ce + alpha * T * T * kl
    elif LOSS == LOSS_MATCHING:
        return (student_ce - teacher_ce) * (student_ce - teacher_ce)
    else:
        return student_ce


@triton.jit
def _derivatives(student_ce, teacher_ce, alpha, rest, LOSS: tl.constexpr):
    """Of the loss by both cross-entropies and by ``T`` squared times the divergence.

    By a cross-entropy it is NaN where the target is no class, and so is the gradient that it multiplies.
    """
    one = tl.where(student_ce == student_ce, 1.0, float("nan")).to(student_ce.dtype)
    if LOSS == KD:
        return rest * one, one, alpha
    elif LOSS == LOSS_MATCHING:
        return 2 * (student_ce - teacher_ce), 2 * (teacher_ce - student_ce), one
    else:
        return one, one, one


@triton.jit
def _tile(ptr, base, present, start, classes, BLOCK: tl.constexpr):
    """A block of logits of each row, -inf past the last class."""
    column = start + tl.arange(0, BLOCK)
    mask = present[:, None] & (column < classes)[None, :]
    return widen(tl.load(ptr + base[:, None] + column[None, :], mask, other=-float("inf")))


@triton.jit
def _store(ptr, base, present, column, classes, grad):
    tl.store(ptr + base[:, None] + column[None, :], grad, present[:, None] & (column < classes)[None, :])


@triton.jit
def _online_softmax(top, total, logits):
    """Largest logit of each row so far, and the sum of exponentials of the differences to it."""
    raised = tl.maximum(top, tl.max(logits, 1))
    # While all are -inf there is nothing to subtract.
    shift = tl.where(raised == -float("inf"), 0.0, raised)
    return raised, total * tl.exp(top - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)


@triton.jit
def _log_softmax(logits, top, log_total):
    return logits - top[:, None] - log_total[:, None]


@triton.jit
def _cross_entropy(ptr, base, present, target, classes, top, log_total):
    """Cross-entropy of each row; NaN where the target is no class, which is not read."""
    valid = (target >= 0) & (target < classes)
    chosen = widen(tl.load(ptr + base + tl.where(valid, target, 0), present, other=0))
    return tl.where(valid, log_total - (chosen - top), float("nan"))
