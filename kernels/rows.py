"""Kernel skeleton of the losses on rows of logits [N, C]: value and gradients in one launch.

Every loss here is made of the cross-entropies of student and teacher against a target and a divergence of
softmax(teacher / T) and softmax(student / T): the Kullback-Leibler divergence, of all classes or of all but the target,
or the Jensen-Shannon divergence; :func:`_value` says how. A program takes one row, or several where C is small. It
reads each network's logits once and writes a gradient of 4 (float64: 8) bytes an element for each network that needs
one, and the loss. Rows of up to 1024 (float64: 512) classes stay in registers; longer ones are read in blocks, in two
passes, of which the second finds them in the cache: online softmaxes with the divergence, then gradients. JS has three.

Where long rows are few, programs share them, in a launch a pass: parts of four blocks each. As the sums of a row are
those of its parts, merged in their order, in one program too, a row does not depend on how many others there are.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import accumulator, block, launch, rows_at_once
from fastadv.kernels.loss import empty_results, reduced
from fastadv.kernels.numerics import divide, scalar, weighted, widen
from fastadv.kernels.parts import keep_sums, numbers_of_part, room_for_sums

# The losses.
KL = tl.constexpr(0)
KD = tl.constexpr(1)
LOSS_MATCHING = tl.constexpr(2)
CROSS_ENTROPY = tl.constexpr(3)
JS = tl.constexpr(4)
DKD = tl.constexpr(5)
LOG_ODDS = tl.constexpr(6)

# Programs that fill a GPU: fewer rows are shared out, and how many blocks are a part.
_FEW_ROWS = 256
_BLOCKS_OF_PART = 4
# What :func:`_part_sums` gives of each row.
_NUMBERS = tl.constexpr(9)


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
        part = _BLOCKS_OF_PART * columns
        shared = samples < _FEW_ROWS and classes > 2 * part
        parts = triton.cdiv(classes, part) if shared else 1
        programs = triton.cdiv(samples, rows) * parts
        inputs = (student, minus[0], teacher, minus[1], target)
        sizes = (temperature, samples, classes, parts)
        # The registers of a thread hold half as many of float64.
        tile = rows * columns * accumulator(student).itemsize // 4
        constants: dict[str, Any] = {"elements": tile, "LOSS": loss.value, "BLOCK": columns, "PART": part}
        sums = halves = None
        if shared:
            sums = room_for_sums(student, _NUMBERS.value, parts)
            launch(sum_parts, programs, *inputs, sums, *sizes, **constants)
        if shared and loss == JS:
            halves = room_for_sums(student, 2, parts)
            launch(halve_parts, programs, *inputs, sums, halves, *sizes, **constants)
        launch(
            logit_loss_rows,
            programs,
            *inputs,
            weight,
            value,
            by_student,
            by_student_minus,
            by_teacher,
            by_teacher_minus,
            sums,
            halves,
            alpha,
            beta,
            scale,
            *sizes,
            ROWS=rows,
            HELD=classes <= columns,
            **constants,
        )
    return reduced(value, scale, reduce), *grads


@triton.jit(do_not_specialize=["samples"])
def sum_parts(
    student_ptr,
    student_minus_ptr,
    teacher_ptr,
    teacher_minus_ptr,
    target_ptr,
    sums_ptr,
    temperature: tl.float64,
    samples,
    classes,
    parts,
    LOSS: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
):
    """Leave the sums of a part of a row."""
    networks = student_ptr, student_minus_ptr, teacher_ptr, teacher_minus_ptr
    rows = networks, None, _own_rows(student_ptr, target_ptr, temperature, samples, classes, parts, 1)
    part = (tl.program_id(0) % parts).to(tl.int32)
    sums = _part_sums(rows, part * PART, LOSS, BLOCK, False, PART)
    keep_sums(sums_ptr + _own_row(parts, 1) * _NUMBERS * parts, part, parts, sums)


@triton.jit(do_not_specialize=["samples"])
def halve_parts(
    student_ptr,
    student_minus_ptr,
    teacher_ptr,
    teacher_minus_ptr,
    target_ptr,
    sums_ptr,
    halves_ptr,
    temperature: tl.float64,
    samples,
    classes,
    parts,
    LOSS: tl.constexpr,
    BLOCK: tl.constexpr,
    PART: tl.constexpr,
):
    """Leave a part's share of the two halves of the Jensen-Shannon divergence."""
    networks = student_ptr, student_minus_ptr, teacher_ptr, teacher_minus_ptr
    rows = networks, None, _own_rows(student_ptr, target_ptr, temperature, samples, classes, parts, 1)
    part, row = (tl.program_id(0) % parts).to(tl.int32), _own_row(parts, 1)
    sums = _row_sums(rows, sums_ptr, row, parts, LOSS, BLOCK, False, PART)
    halves = _part_halves(rows, sums, part * PART, LOSS, BLOCK, False, PART)
    keep_sums(halves_ptr + row * 2 * parts, part, parts, halves)


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
    sums_ptr,
    halves_ptr,
    alpha: tl.float64,
    beta: tl.float64,
    scale: tl.float64,
    temperature: tl.float64,
    samples,
    classes,
    parts,
    LOSS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
    PART: tl.constexpr,
):
    """Loss and gradients of rows, or the gradients of a part of a row of which the sums of all parts are there."""
    SOFT: tl.constexpr = (LOSS == KL) | (LOSS == KD) | (LOSS == JS) | (LOSS == DKD)
    HARD: tl.constexpr = (LOSS == KD) | (LOSS == LOSS_MATCHING)
    # Log-odds of the other classes against the target; cross-entropy alone is computed from them.
    ODDS: tl.constexpr = (LOSS == LOG_ODDS) | (LOSS == CROSS_ENTROPY)
    TEACHER_HARD: tl.constexpr = LOSS == LOSS_MATCHING
    STUDENT_GRAD: tl.constexpr = (student_grad_ptr is not None) | (student_minus_grad_ptr is not None)
    TEACHER_GRAD: tl.constexpr = (teacher_grad_ptr is not None) | (teacher_minus_grad_ptr is not None)
    networks = student_ptr, student_minus_ptr, teacher_ptr, teacher_minus_ptr
    place = _own_rows(student_ptr, target_ptr, temperature, samples, classes, parts, ROWS)
    base, present, _, target, T = place
    rows = (networks, _load_pair(networks, place, 0, BLOCK), place) if HELD else (networks, None, place)
    row = _own_row(parts, ROWS)
    zeros = widen(tl.zeros([ROWS], student_ptr.dtype.element_ty))
    sums = _row_sums(rows, sums_ptr, row, parts, LOSS, BLOCK, HELD, PART)
    soft_s_top, soft_s_sum, soft_t_top, soft_t_sum, gap, hard_s_top, hard_s_sum, hard_t_top, hard_t_sum = sums
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
        # Of -inf alone there is no largest.
        soft_s_top, soft_t_top = _shift(soft_s_top), _shift(soft_t_top)
        student_odds = _odds(student_ptr, base, present, target, classes, T, soft_s_top, soft_s_log)
        teacher_odds = _odds(teacher_ptr, base, present, target, classes, T, soft_t_top, soft_t_log)
        p_hit, p_miss = tl.exp(_log_sigmoid(teacher_odds)), tl.exp(_log_sigmoid(-teacher_odds))
        of_target = p_hit * (_log_sigmoid(teacher_odds) - _log_sigmoid(student_odds))
        of_target += p_miss * (_log_sigmoid(-teacher_odds) - _log_sigmoid(-student_odds))
        student_pull = share * (tl.exp(_log_sigmoid(student_odds)) - p_hit)
        teacher_pull = share * p_hit * p_miss * (teacher_odds - student_odds)
        # Other classes that are all impossible have no probabilities, rather than undefined ones.
        soft_s_log = tl.where(soft_s_sum == 0, 0.0, soft_s_log)
        soft_t_log = tl.where(soft_t_sum == 0, 0.0, soft_t_log)

    by_student, by_teacher, by_soft = _derivatives(student_ce, teacher_ce, share, rest, LOSS)
    if LOSS == DKD:
        by_soft = scalar(beta, zeros) + zeros

    # The divergence; for JS, in a pass of its own, two halves, each half the divergence of one network from the mean.
    divergence, student_half, teacher_half = zeros, zeros, zeros
    if SOFT and LOSS != JS:
        divergence = divide(gap, soft_t_sum) + (soft_s_log - soft_t_log)
    if LOSS == JS:
        if halves_ptr is None:
            for start in range(0, classes, PART):
                of_part = _part_halves(rows, sums, start, LOSS, BLOCK, HELD, PART)
                student_half, teacher_half = student_half + of_part[0], teacher_half + of_part[1]
        else:
            for part in range(0, parts):
                of_part = numbers_of_part(halves_ptr + row * 2 * parts, part, parts, zeros, 2)
                student_half, teacher_half = student_half + of_part[0], teacher_half + of_part[1]
        divergence = student_half + teacher_half
    value = _value(student_ce, teacher_ce, divergence, of_target, T, share, rest, by_soft, LOSS)
    if LOSS == LOG_ODDS:
        value = odds
    tl.store(value_ptr + row, factor * value, present)

    first, last = 0, classes
    if sums_ptr is not None:
        first = (tl.program_id(0) % parts).to(tl.int32) * PART
        last = tl.minimum(first + PART, classes)
    if STUDENT_GRAD or TEACHER_GRAD:
        for start in range(first, last, BLOCK):
            column = start + tl.arange(0, BLOCK)
            hit = column[None, :] == target[:, None]
            s, t = _pair(rows, start, BLOCK, HELD)
            student_grad, teacher_grad = tl.zeros_like(s), tl.zeros_like(s)
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
def _own_row(parts, ROWS: tl.constexpr):
    """Rows of this program; one, where others share it."""
    return tl.program_id(0).to(tl.int64) // parts * ROWS + tl.arange(0, ROWS)


@triton.jit
def _own_rows(logits_ptr, target_ptr, temperature, samples, classes, parts, ROWS: tl.constexpr):
    """Where this program's rows begin and whether they exist, how long they are, their targets, and the temperature."""
    row = _own_row(parts, ROWS)
    present = row < samples
    target = tl.zeros([ROWS], tl.int64)
    if target_ptr is not None:
        target = tl.load(target_ptr + row, present, other=0)
    T = scalar(temperature, widen(tl.zeros([ROWS], logits_ptr.dtype.element_ty)))
    return row * classes, present, classes, target, T


@triton.jit
def _pair(rows, start, BLOCK: tl.constexpr, HELD: tl.constexpr):
    """A block of both networks' logits, which may be held; of the student's twice where there is no teacher."""
    return rows[1] if HELD else _load_pair(rows[0], rows[2], start, BLOCK)


@triton.jit
def _load_pair(networks, place, start, BLOCK: tl.constexpr):
    student_ptr, student_minus_ptr, teacher_ptr, teacher_minus_ptr = networks
    base, present, classes, _, _ = place
    s = load_logits(student_ptr, student_minus_ptr, base, present, start, classes, BLOCK)
    if teacher_ptr is None:
        return s, s
    else:
        return s, load_logits(teacher_ptr, teacher_minus_ptr, base, present, start, classes, BLOCK)


@triton.jit
def _row_sums(
    rows, sums_ptr, row, parts, LOSS: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr, PART: tl.constexpr
):
    """The sums of all parts of each row, merged in their order."""
    _, _, classes, _, like = rows[2]
    none = tl.zeros(row.shape, like.dtype)
    lowest = none - float("inf")
    sums = lowest, none, lowest, none, none, lowest, none, lowest, none
    if HELD:
        sums = _part_sums(rows, 0, LOSS, BLOCK, HELD, PART)
    elif sums_ptr is None:
        for start in range(0, classes, PART):
            sums = _merged(sums, _part_sums(rows, start, LOSS, BLOCK, HELD, PART), LOSS)
    else:
        for part in range(0, parts):
            of_part = numbers_of_part(sums_ptr + row * _NUMBERS * parts, part, parts, like, _NUMBERS)
            sums = _merged(sums, of_part, LOSS)
    return sums


@triton.jit
def _part_sums(rows, first, LOSS: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr, PART: tl.constexpr):
    """The sums of a part of each row, the part that begins at class ``first``.

    Of student and teacher at the temperature the largest logit and the sum of exponentials of the differences to it,
    and the sum of exp(t) (t - s) with the logits below their largest; then of both as they are, as far as a loss needs.
    Columns are summed apart until the end, so that no block waits for all threads.
    """
    classes = rows[2][2]
    sums = _block_sums(rows, first, LOSS, BLOCK, HELD)
    if not HELD:
        for start in range(first + BLOCK, tl.minimum(first + PART, classes), BLOCK):
            sums = _merged(sums, _block_sums(rows, start, LOSS, BLOCK, HELD), LOSS)
    return _gathered(sums, LOSS)


@triton.jit
def _block_sums(rows, start, LOSS: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr):
    """The sums of single logits: each is the largest and its own exponential 1."""
    _, _, _, target, T = rows[2]
    s, t = _pair(rows, start, BLOCK, HELD)
    one = tl.zeros_like(s) + 1
    soft_s, soft_t, gap, hard_s = s, t, one, s
    if (LOSS == KL) | (LOSS == KD) | (LOSS == JS) | (LOSS == DKD):
        soft_s, soft_t = _soft(s, T, target, start, LOSS, BLOCK), _soft(t, T, target, start, LOSS, BLOCK)
        # Zero, but where a logit is infinite.
        gap = (soft_t - _shift(soft_t)) - (soft_s - _shift(soft_s))
    if (LOSS == LOG_ODDS) | (LOSS == CROSS_ENTROPY):
        hard_s = _others(s, target, start, BLOCK)
    return soft_s, one, soft_t, one, gap, hard_s, one, t, one


@triton.jit
def _merged(a, b, LOSS: tl.constexpr):
    """The sums of what either has summed."""
    s_top, s_sum, t_top, t_sum, gap, hard_s_top, hard_s_sum, hard_t_top, hard_t_sum = a
    if (LOSS == KL) | (LOSS == KD) | (LOSS == JS) | (LOSS == DKD):
        s_top, t_top = tl.maximum(a[0], b[0]), tl.maximum(a[2], b[2])
        s_sum = _raised(a[1], a[0], s_top) + _raised(b[1], b[0], s_top)
        t_sum = _raised(a[3], a[2], t_top) + _raised(b[3], b[2], t_top)
        if LOSS != JS:
            gap = _raised_gap(a, s_top, t_top) + _raised_gap(b, s_top, t_top)
    if LOSS != KL and LOSS != JS and LOSS != DKD:
        hard_s_top = tl.maximum(a[5], b[5])
        hard_s_sum = _raised(a[6], a[5], hard_s_top) + _raised(b[6], b[5], hard_s_top)
    if LOSS == LOSS_MATCHING:
        hard_t_top = tl.maximum(a[7], b[7])
        hard_t_sum = _raised(a[8], a[7], hard_t_top) + _raised(b[8], b[7], hard_t_top)
    return s_top, s_sum, t_top, t_sum, gap, hard_s_top, hard_s_sum, hard_t_top, hard_t_sum


@triton.jit
def _gathered(sums, LOSS: tl.constexpr):
    """The sums of each row, from those of its columns."""
    none = tl.sum(tl.zeros_like(sums[0]), 1)
    s_top, s_sum, t_top, t_sum, gap = none, none, none, none, none
    hard_s_top, hard_s_sum, hard_t_top, hard_t_sum = none, none, none, none
    if (LOSS == KL) | (LOSS == KD) | (LOSS == JS) | (LOSS == DKD):
        s_top, t_top = tl.max(sums[0], 1), tl.max(sums[2], 1)
        s_sum = tl.sum(_raised(sums[1], sums[0], s_top[:, None]), 1)
        t_sum = tl.sum(_raised(sums[3], sums[2], t_top[:, None]), 1)
        if LOSS != JS:
            gap = tl.sum(_raised_gap(sums, s_top[:, None], t_top[:, None]), 1)
    if LOSS != KL and LOSS != JS and LOSS != DKD:
        hard_s_top = tl.max(sums[5], 1)
        hard_s_sum = tl.sum(_raised(sums[6], sums[5], hard_s_top[:, None]), 1)
    if LOSS == LOSS_MATCHING:
        hard_t_top = tl.max(sums[7], 1)
        hard_t_sum = tl.sum(_raised(sums[8], sums[7], hard_t_top[:, None]), 1)
    return s_top, s_sum, t_top, t_sum, gap, hard_s_top, hard_s_sum, hard_t_top, hard_t_sum


@triton.jit
def _raised(total, top, to):
    """A sum of exponentials of differences to ``top``, as one of differences to ``to``."""
    return total * tl.exp(top - _shift(to))


@triton.jit
def _raised_gap(sums, s_to, t_to):
    """The sum of exp(t) (t - s) at larger maxima; where the factor is 0 it may be undefined and adds nothing."""
    s_top, _, t_top, t_sum, gap, _, _, _, _ = sums
    moved = (_shift(t_to) - _shift(t_top)) - (_shift(s_to) - _shift(s_top))
    factor = tl.exp(t_top - _shift(t_to))
    return tl.where(factor == 0, 0.0, factor * (gap - t_sum * moved))


@triton.jit
def _part_halves(rows, sums, first, LOSS: tl.constexpr, BLOCK: tl.constexpr, HELD: tl.constexpr, PART: tl.constexpr):
    """Two halves of the Jensen-Shannon divergence over a part of each row: of each network from their mean, half."""
    _, _, classes, target, T = rows[2]
    s_log, t_log = tl.log(sums[1]), tl.log(sums[3])
    student_half, teacher_half = tl.zeros_like(sums[1]), tl.zeros_like(sums[1])
    for start in range(first, tl.minimum(first + PART, classes), BLOCK):
        s, t = _pair(rows, start, BLOCK, HELD)
        log_q = _log_softmax(_soft(s, T, target, start, LOSS, BLOCK), sums[0], s_log)
        log_p = _log_softmax(_soft(t, T, target, start, LOSS, BLOCK), sums[2], t_log)
        student_half += tl.sum(_expected(log_q, _log_ratio(log_q, log_p)), 1)
        teacher_half += tl.sum(_expected(log_p, _log_ratio(log_p, log_q)), 1)
    return student_half, teacher_half


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
    return -_softplus(-x)[0]


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
def _shift(top):
    """Number to subtract from a logit: the largest so far, 0 while that is -inf."""
    return tl.where(top == -float("inf"), 0.0, top)


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
