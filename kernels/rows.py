"""Kernel skeleton of the losses on rows of logits [N, C]: value and gradients in one launch.

Every loss here is made of the cross-entropies of student and teacher against a target and a divergence of
softmax(teacher / T) and softmax(student / T): the Kullback-Leibler divergence, of all classes or of all but the target,
or the Jensen-Shannon divergence; :func:`_value` says how. A program takes one row, or several where C is small. It
reads each network's logits once and writes a gradient of 4 (float64: 8) bytes an element for each network that needs
one, and the loss. Rows of up to 1024 (float64: 512) classes stay in registers; longer ones are read in blocks, in two
passes, of which the second finds them in the cache: online softmaxes with the divergence, then gradients. JS has three.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import accumulator, block, launch, rows_at_once
from fastadv.kernels.loss import empty_results, reduced
from fastadv.kernels.numerics import divide, scalar, weighted, widen

# The losses.
KL = tl.constexpr(0)
KD = tl.constexpr(1)
LOSS_MATCHING = tl.constexpr(2)
CROSS_ENTROPY = tl.constexpr(3)
JS = tl.constexpr(4)
DKD = tl.constexpr(5)
LOG_ODDS = tl.constexpr(6)


def logit_loss(
    loss: tl.constexpr,
    student: Tensor,
    teacher: Tensor | None,
    target: Tensor | None,
    needs_grad: tuple[bool, ...],
    scale: float,
    reduce: bool,
    weight: Tensor | None,
    *,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 0.0,
    minus: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> tuple[Tensor | None, ...]:
    """Return the loss [N], or its sum [], and its gradients w.r.t. student and teacher [N, C], None where not needed.

    With ``minus`` the logits are differences, student - minus[0] and teacher - minus[1]; then ``needs_grad``, and the
    gradients, are of student, minus[0], teacher, minus[1]. All results are multiplied by ``scale * weight`` in the
    precision of the sums.
    """
    samples, classes = student.shape
    value, grads = empty_results(student, needs_grad)
    by_student, by_student_minus, by_teacher, by_teacher_minus = (
        grads if len(grads) == 4 else (grads[0], None, grads[1], None)
    )
    if samples:
        columns = block(classes, student)
        rows = rows_at_once(columns)
        launch(
            logit_loss_rows,
            triton.cdiv(samples, rows),
            student,
            minus[0],
            teacher,
            minus[1],
            target,
            weight,
            value,
            by_student,
            by_student_minus,
            by_teacher,
            by_teacher_minus,
            temperature,
            alpha,
            beta,
            scale,
            samples,
            classes,
            # The registers of a thread hold half as many of float64.
            elements=rows * columns * accumulator(student).itemsize // 4,
            LOSS=loss.value,
            ROWS=rows,
            BLOCK=columns,
            HELD=classes <= columns,
        )
    return reduced(value, scale, reduce), *grads


@triton.jit(do_not_specialize=["samples"])
def logit_loss_rows(
    student_ptr,
    student_minus_ptr,
    teacher_ptr,
    teacher_minus_ptr,
    target_ptr,
    weight_ptr,
    value_ptr,
    student_grad_ptr,
    student_minus_grad_ptr,
    teacher_grad_ptr,
    teacher_minus_grad_ptr,
    temperature: tl.float64,
    alpha: tl.float64,
    beta: tl.float64,
    scale: tl.float64,
    samples,
    classes,
    LOSS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
):
    SOFT: tl.constexpr = (LOSS == KL) | (LOSS == KD) | (LOSS == JS) | (LOSS == DKD)
    HARD: tl.constexpr = (LOSS == KD) | (LOSS == LOSS_MATCHING)
    # Log-odds of the other classes against the target; cross-entropy alone is computed from them.
    ODDS: tl.constexpr = (LOSS == LOG_ODDS) | (LOSS == CROSS_ENTROPY)
    TEACHER_HARD: tl.constexpr = LOSS == LOSS_MATCHING
    STUDENT_GRAD: tl.constexpr = (student_grad_ptr is not None) | (student_minus_grad_ptr is not None)
    TEACHER_GRAD: tl.constexpr = (teacher_grad_ptr is not None) | (teacher_minus_grad_ptr is not None)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    present = row < samples
    base = row * classes
    zeros = widen(tl.zeros([ROWS], student_ptr.dtype.element_ty))
    T = scalar(temperature, zeros)
    target = tl.zeros([ROWS], tl.int64)
    if target_ptr is not None:
        target = tl.load(target_ptr + row, present, other=0)
    if HELD:
        held_s = load_logits(student_ptr, student_minus_ptr, base, present, 0, classes, BLOCK)
        if teacher_ptr is not None:
            held_t = load_logits(teacher_ptr, teacher_minus_ptr, base, present, 0, classes, BLOCK)

    # Largest logit and sum of exponentials above it: of both at the temperature, and of both as they are.
    soft_s_top, soft_s_sum, soft_t_top, soft_t_sum = zeros - float("inf"), zeros, zeros - float("inf"), zeros
    hard_s_top, hard_s_sum, hard_t_top, hard_t_sum = zeros - float("inf"), zeros, zeros - float("inf"), zeros
    # Running sum of exp(t) (t - s), the logits t of the teacher and s of the student taken below their largest.
    gap = zeros
    for start in range(0, classes, BLOCK):
        s = held_s if HELD else load_logits(student_ptr, student_minus_ptr, base, present, start, classes, BLOCK)
        if HARD:
            hard_s_top, hard_s_sum = _online_softmax(hard_s_top, hard_s_sum, s)
        if ODDS:
            hard_s_top, hard_s_sum = _online_softmax(hard_s_top, hard_s_sum, _others(s, target, start, BLOCK))
        if teacher_ptr is not None:
            t = held_t if HELD else load_logits(teacher_ptr, teacher_minus_ptr, base, present, start, classes, BLOCK)
            if SOFT:
                soft_s = _soft(s, T, target, start, LOSS, BLOCK)
                soft_t = _soft(t, T, target, start, LOSS, BLOCK)
                s_top, s_sum = soft_s_top, soft_s_sum
                t_top, t_sum = soft_t_top, soft_t_sum
                soft_s_top, soft_s_sum = _online_softmax(s_top, s_sum, soft_s)
                soft_t_top, soft_t_sum = _online_softmax(t_top, t_sum, soft_t)
                if LOSS != JS:
                    gap = _online_gap(gap, t_sum, s_top, t_top, soft_s_top, soft_t_top, soft_s, soft_t)
            if TEACHER_HARD:
                hard_t_top, hard_t_sum = _online_softmax(hard_t_top, hard_t_sum, t)
    soft_s_log, soft_t_log = tl.log(soft_s_sum), tl.log(soft_t_sum)
    hard_s_log, hard_t_log = tl.log(hard_s_sum), tl.log(hard_t_sum)

    student_ce, teacher_ce = zeros, zeros
    if HARD:
        student_ce = _cross_entropy(student_ptr, base, present, target, classes, hard_s_top, hard_s_log)
        if TEACHER_HARD:
            teacher_ce = _cross_entropy(teacher_ptr, base, present, target, classes, hard_t_top, hard_t_log)
    odds, slope = zeros, zeros + 1
    if ODDS:
        odds = -_odds(student_ptr, base, present, target, classes, zeros + 1, hard_s_top, hard_s_log)
        if LOSS == CROSS_ENTROPY:
            student_ce, slope = _softplus(odds)
    factor = weighted(scale, weight_ptr, row, present, zeros)
    share, rest = scalar(alpha, zeros) + zeros, scalar(1 - alpha, zeros)

    # Of DKD: the divergence of target against the rest, and its gradient w.r.t. the log-odds of each network's target.
    of_target, student_pull, teacher_pull = zeros, zeros, zeros
    if LOSS == DKD:
        student_odds = _odds(student_ptr, base, present, target, classes, T, soft_s_top, soft_s_log)
        teacher_odds = _odds(teacher_ptr, base, present, target, classes, T, soft_t_top, soft_t_log)
        p_hit, p_miss = tl.exp(_log_sigmoid(teacher_odds)), tl.exp(_log_sigmoid(-teacher_odds))
        of_target = p_hit * (_log_sigmoid(teacher_odds) - _log_sigmoid(student_odds))
        of_target += p_miss * (_log_sigmoid(-teacher_odds) - _log_sigmoid(-student_odds))
        student_pull = share * (tl.exp(_log_sigmoid(student_odds)) - p_hit)
        teacher_pull = share * p_hit * p_miss * (teacher_odds - student_odds)

    by_student, by_teacher, by_soft = _derivatives(student_ce, teacher_ce, share, rest, LOSS)
    if LOSS == DKD:
        by_soft = scalar(beta, zeros) + zeros

    # The divergence; for JS, in a pass of its own, two halves, each half the divergence of one network from the mean.
    divergence, student_half, teacher_half = zeros, zeros, zeros
    if SOFT and LOSS != JS:
        divergence = divide(gap, soft_t_sum) + (soft_s_log - soft_t_log)
    if LOSS == JS:
        for start in range(0, classes, BLOCK):
            s = held_s if HELD else load_logits(student_ptr, student_minus_ptr, base, present, start, classes, BLOCK)
            t = held_t if HELD else load_logits(teacher_ptr, teacher_minus_ptr, base, present, start, classes, BLOCK)
            log_q = _log_softmax(_soft(s, T, target, start, LOSS, BLOCK), soft_s_top, soft_s_log)
            log_p = _log_softmax(_soft(t, T, target, start, LOSS, BLOCK), soft_t_top, soft_t_log)
            student_half += tl.sum(_expected(log_q, _log_ratio(log_q, log_p)), 1)
            teacher_half += tl.sum(_expected(log_p, _log_ratio(log_p, log_q)), 1)
        divergence = student_half + teacher_half
    value = _value(student_ce, teacher_ce, divergence, of_target, T, share, rest, by_soft, LOSS)
    if LOSS == LOG_ODDS:
        value = odds
    tl.store(value_ptr + row, factor * value, present)

    if STUDENT_GRAD or TEACHER_GRAD:
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            hit = column[None, :] == target[:, None]
            s = held_s if HELD else load_logits(student_ptr, student_minus_ptr, base, present, start, classes, BLOCK)
            student_grad, teacher_grad = tl.zeros_like(s), tl.zeros_like(s)
            if teacher_ptr is not None:
                t = (
                    held_t
                    if HELD
                    else load_logits(teacher_ptr, teacher_minus_ptr, base, present, start, classes, BLOCK)
                )
            if SOFT:
                log_q = _log_softmax(_soft(s, T, target, start, LOSS, BLOCK), soft_s_top, soft_s_log)
                log_p = _log_softmax(_soft(t, T, target, start, LOSS, BLOCK), soft_t_top, soft_t_log)
                q, p = tl.exp(log_q), tl.exp(log_p)
                if LOSS == JS:
                    student_grad = _expected(log_q, _log_ratio(log_q, log_p) - student_half[:, None])
                    teacher_grad = _expected(log_p, _log_ratio(log_p, log_q) - teacher_half[:, None])
                else:
                    student_grad = q - p
                    teacher_grad = _expected(log_p, log_p - log_q - divergence[:, None])
                student_grad *= (by_soft * T)[:, None]
                teacher_grad *= (by_soft * T)[:, None]
                if LOSS == DKD:
                    # A logit moves the odds of the target: its own by 1, another's by minus its share of the others.
                    student_grad += (T * student_pull)[:, None] * (hit.to(q.dtype) - q)
                    teacher_grad += (T * teacher_pull)[:, None] * (hit.to(p.dtype) - p)
            if HARD:
                q = tl.exp(_log_softmax(s, hard_s_top, hard_s_log))
                student_grad += by_student[:, None] * (q - hit.to(q.dtype))
            if TEACHER_HARD:
                p = tl.exp(_log_softmax(t, hard_t_top, hard_t_log))
                teacher_grad += by_teacher[:, None] * (p - hit.to(p.dtype))
            if ODDS:
                others = _others(s, target, start, BLOCK)
                log_q = _log_softmax(others, hard_s_top, hard_s_log)
                q = tl.where(others == -float("inf"), 0.0, _exp_to_the_end(log_q))
                student_grad = slope[:, None] * (q - hit.to(q.dtype))
                student_grad = tl.where((value == value)[:, None], student_grad, float("nan"))
            student_grad *= factor[:, None]
            teacher_grad *= factor[:, None]
            store_gradient(student_grad_ptr, base, present, column, classes, student_grad)
            store_gradient(student_minus_grad_ptr, base, present, column, classes, -student_grad)
            store_gradient(teacher_grad_ptr, base, present, column, classes, teacher_grad)
            store_gradient(teacher_minus_grad_ptr, base, present, column, classes, -teacher_grad)


@triton.jit
def _soft(logits, T, target, start, LOSS: tl.constexpr, BLOCK: tl.constexpr):
    """Logits at the temperature; for DKD without the target's."""
    scaled = divide(logits, T)
    if LOSS == DKD:
        scaled = _others(scaled, target, start, BLOCK)
    return scaled


@triton.jit
def _others(logits, target, start, BLOCK: tl.constexpr):
    """The logits with -inf in the place of the target's."""
    column = start + tl.arange(0, BLOCK)
    return tl.where(column[None, :] == target[:, None], -float("inf"), logits)


@triton.jit
def _exp_to_the_end(x):
    """exp(x) of x <= 0 down to the smallest numbers, which the instruction of a GPU may flush to zero."""
    root = tl.exp(0.5 * x)
    return root * root


@triton.jit
def _softplus(x):
    """log(1 + exp x) and its derivative, down to the smallest numbers."""
    e = _exp_to_the_end(-tl.abs(x))
    # What 1 + e loses of a small e is put right by the quotient.
    total = 1 + e
    log_total = tl.where(total == 1, e, tl.log(total) * divide(e, tl.where(total == 1, 1.0, total - 1)))
    likely = divide(tl.zeros_like(e) + 1, total)
    return tl.maximum(x, 0.0) + log_total, tl.where(x > 0, likely, e * likely)


@triton.jit
def _expected(log_p, x):
    """Term of each class in the mean of ``x`` under p; zero where p is 0, whatever x is."""
    p = tl.exp(log_p)
    return tl.where(p == 0, 0.0, p * x)


@triton.jit
def _log_ratio(log_p, log_q):
    """Half of log(p / m) with m the mean of p and q, without overflow."""
    gap = log_q - log_p
    log_sum = tl.maximum(gap, 0.0) + tl.log(1 + tl.exp(-tl.abs(gap)))
    return 0.5 * (0.6931471805599453 - log_sum)


@triton.jit
def _log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def _value(student_ce, teacher_ce, divergence, of_target, T, alpha, rest, beta, LOSS: tl.constexpr):
    """Value of the loss; ``rest`` is 1 - alpha."""
    if LOSS == KL or LOSS == JS:  # noqa: SIM109 (a tuple is not a constant of Triton's)
        return T * T * divergence
    elif LOSS == KD:
        return rest * student_ce + alpha * T * T * divergence
    elif LOSS == DKD:
        return T * T * (alpha * of_target + beta * divergence)
    elif LOSS == LOSS_MATCHING:
        return (student_ce - teacher_ce) * (student_ce - teacher_ce)
    else:
        return student_ce


@triton.jit
def _derivatives(student_ce, teacher_ce, alpha, rest, LOSS: tl.constexpr):
    """Derivatives of the loss w.r.t. both cross-entropies and w.r.t. ``T`` squared times the divergence.

    W.r.t. a cross-entropy it is NaN where the target is no class, and so is the gradient that it multiplies.
    """
    one = tl.where(student_ce == student_ce, 1.0, float("nan")).to(student_ce.dtype)
    if LOSS == KD:
        return rest * one, one, alpha
    elif LOSS == LOSS_MATCHING:
        return 2 * (student_ce - teacher_ce), 2 * (teacher_ce - student_ce), one
    else:
        return one, one, one


@triton.jit
def load_logits(ptr, minus_ptr, base, present, start, classes, BLOCK: tl.constexpr):
    """A block of logits of each row, or of differences of logits; -inf past the last class."""
    logits = load_rows(ptr, base, present, start, classes, -float("inf"), BLOCK)
    if minus_ptr is not None:
        logits -= load_rows(minus_ptr, base, present, start, classes, 0.0, BLOCK)
    return logits


@triton.jit
def load_rows(ptr, base, present, start, columns, other, BLOCK: tl.constexpr):
    """A block of each row of ``columns`` numbers; ``other`` past the last one."""
    column = start + tl.arange(0, BLOCK)
    mask = present[:, None] & (column < columns)[None, :]
    return widen(tl.load(ptr + base[:, None] + column[None, :], mask, other=other))


@triton.jit
def store_gradient(ptr, base, present, column, classes, grad):
    """Write a block of each row's gradient where it is needed."""
    if ptr is not None:
        tl.store(ptr + base[:, None] + column[None, :], grad, present[:, None] & (column < classes)[None, :])


@triton.jit
def _online_softmax(top, total, logits):
    """Largest logit of each row so far, and the sum of exponentials of the differences to it."""
    raised = tl.maximum(top, tl.max(logits, 1))
    shift = _shift(raised)
    return raised, total * tl.exp(top - shift) + tl.sum(tl.exp(logits - shift[:, None]), 1)


@triton.jit
def _shift(top):
    """Number to subtract from a logit: the largest so far, 0 while that is -inf."""
    return tl.where(top == -float("inf"), 0.0, top)


@triton.jit
def _online_gap(gap, t_sum, s_top, t_top, s_raised, t_raised, s, t):
    """Sum over each row so far of exp(t - t_top) ((t - t_top) - (s - s_top)), at the raised maxima.

    ``t_sum`` is the sum of exponentials before. Where an exponential is 0 the gap may be undefined and adds nothing.
    """
    s_shift, t_shift = _shift(s_raised), _shift(t_raised)
    moved = (t_shift - _shift(t_top)) - (s_shift - _shift(s_top))
    factor = tl.exp(t_top - t_shift)
    before = tl.where(factor == 0, 0.0, factor * (gap - t_sum * moved))
    below_t = t - t_shift[:, None]
    p = tl.exp(below_t)
    return before + tl.sum(tl.where(p == 0, 0.0, p * (below_t - (s - s_shift[:, None]))), 1)


@triton.jit
def _log_softmax(logits, top, log_total):
    return logits - top[:, None] - log_total[:, None]


@triton.jit
def _cross_entropy(ptr, base, present, target, classes, top, log_total):
    """Cross-entropy of each row; NaN, and no read, where the target is no class."""
    valid = (target >= 0) & (target < classes)
    chosen = widen(tl.load(ptr + base + tl.where(valid, target, 0), present, other=0))
    return tl.where(valid, log_total - (chosen - top), float("nan"))


@triton.jit
def _odds(ptr, base, present, target, classes, T, top, log_total):
    """Log-odds of the target against all other classes at the temperature; NaN where the target is no class."""
    valid = (target >= 0) & (target < classes)
    chosen = widen(tl.load(ptr + base + tl.where(valid, target, 0), present, other=0))
    return tl.where(valid, divide(chosen, T) - top - log_total, float("nan"))
