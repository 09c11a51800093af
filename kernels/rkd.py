"""Relational distillation: rkd_loss, a function of the squared distances of student's and teacher's features alone.

Four launches and two sums. ``measure``, a program for some rows of pairs of a network, leaves the squared distances and
the sum of the lengths of each row; ``change_unit``, a program a row, brings them to the network's mean length;
``compare``, a program for a point and some later ones, goes through all triangles of these pairs, and leaves their part
of the loss and its derivative by their squared distances, from which ``gradient`` makes sum_j by_ij (x_i - x_j), a
program for some points and a block of their features. Memory is of order B^2.

Squared distances are float64 throughout: the cosine ``(s_ij + s_ik - s_jk) / (2 |ij| |ik|)`` of a triangle with two
near points and a far one is a small difference of theirs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels.launch import accumulator, block, launch
from fastadv.kernels.numerics import scalar, square, widen

# As in the reference: the least length, and the distance up to which points coincide.
_SHORTEST = tl.constexpr(1e-6)
_COINCIDENT = tl.constexpr(1e-12)

# Tiles: rows and columns of pairs, features; second and third points of triangles; points of the gradient.
_PAIRS = {"ROWS": 4, "COLUMNS": 32, "BLOCK": 16}
_TRIANGLES = {"SECOND": 16, "THIRD": 64}
_POINTS = 4


def rkd_loss(
    student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float, student_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Launcher of :func:`fastadv.rkd_loss`."""
    count, features = student.shape
    dtype = accumulator(student)
    grad = student.new_empty(student.shape, dtype=dtype) if student_grad else None
    if count < 2:
        return student.new_zeros([], dtype=dtype), None if grad is None else grad.zero_()
    squares = student.new_empty([2, count, count], dtype=torch.float64)
    lengths = student.new_empty([2, count], dtype=torch.float64)
    inverses = student.new_empty([2, count, count], dtype=dtype)
    by_square = student.new_empty([count, count], dtype=dtype)
    bands = triton.cdiv(count, _PAIRS["ROWS"])
    sizes = (count, features, teacher.shape[1])
    tile = _PAIRS["ROWS"] * _PAIRS["COLUMNS"] * _PAIRS["BLOCK"]
    launch(measure, 2 * bands, student, teacher, squares, lengths, *sizes, bands, elements=tile, **_PAIRS)
    # Every row holds every length of its point, so the pairs count twice, as they do in the sum over the rows.
    means = lengths.sum(1) / (count * (count - 1))
    columns = block(count, student)
    launch(change_unit, 2 * count, squares, inverses, means, count, elements=columns, BLOCK=columns)
    parts = triton.cdiv(count, _TRIANGLES["SECOND"])
    sums = student.new_empty([2, count * parts], dtype=torch.float64)
    # Pairs count in both orders, and so do pairs of sides.
    weights = (2 * distance_weight / count**2, 2 * angle_weight / count**3)
    tile = _TRIANGLES["SECOND"] * _TRIANGLES["THIRD"]
    results = (by_square, sums)
    sizes = (count, count * count, parts)
    launch(compare, count * parts, squares, inverses, means, *results, *weights, *sizes, elements=tile, **_TRIANGLES)
    loss, by_mean = sums.sum(1)
    if student_grad:
        columns = block(features, student)
        runs = triton.cdiv(features, columns)
        programs = triton.cdiv(count, _POINTS) * runs
        by_mean = by_mean * (2 * weights[0] / (count * (count - 1)))
        matrices = (squares, inverses, means, by_square, by_mean)
        sizes = (count, features, runs)
        launch(
            gradient,
            programs,
            student,
            *matrices,
            grad,
            *sizes,
            elements=_POINTS * columns,
            ROWS=_POINTS,
            BLOCK=columns,
        )
    return loss.to(dtype), grad


@triton.jit
def measure(
    student_ptr,
    teacher_ptr,
    squares_ptr,
    lengths_ptr,
    count,
    student_features,
    teacher_features,
    bands,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    network = program // bands
    x_ptr = teacher_ptr if network else student_ptr
    features = teacher_features if network else student_features
    i = program % bands * ROWS + tl.arange(0, ROWS)
    squares_ptr += network.to(tl.int64) * count * count
    lengths = tl.zeros([ROWS], tl.float64)
    for first in range(0, count, COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        squares = tl.zeros([ROWS, COLUMNS], tl.float64)
        for start in range(0, features, BLOCK):
            d = start + tl.arange(0, BLOCK)[None, :]
            a = tl.load(x_ptr + i.to(tl.int64)[:, None] * features + d, (i < count)[:, None] & (d < features), other=0)
            b = tl.load(x_ptr + j.to(tl.int64)[:, None] * features + d, (j < count)[:, None] & (d < features), other=0)
            squares += tl.sum(square(a.to(tl.float64)[:, None, :] - b.to(tl.float64)[None, :, :]), 2)
        inside = (i < count)[:, None] & (j < count)[None, :]
        tl.store(squares_ptr + i.to(tl.int64)[:, None] * count + j[None, :], squares, inside)
        sides = inside & (i[:, None] != j[None, :])
        lengths += tl.sum(tl.where(sides, _length(squares, square(scalar(_SHORTEST, squares))), 0.0), 1)
    tl.store(lengths_ptr + network * count + i, lengths, i < count)


@triton.jit
def change_unit(squares_ptr, inverses_ptr, means_ptr, count, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    mean = tl.load(means_ptr + row // count)
    for start in range(0, count, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < count
        at = row * count + column
        squares = tl.load(squares_ptr + at, inside, other=1)
        coincident = squares <= square(scalar(_COINCIDENT, squares))
        inverse = tl.where(coincident, 0.0, mean / tl.sqrt(tl.where(coincident, 1.0, squares)))
        tl.store(inverses_ptr + at, inverse.to(inverses_ptr.dtype.element_ty), inside)
        tl.store(squares_ptr + at, squares / (mean * mean), inside)


@triton.jit
def compare(
    squares_ptr,
    inverses_ptr,
    means_ptr,
    by_square_ptr,
    sums_ptr,
    distance_weight: tl.float64,
    angle_weight: tl.float64,
    count,
    matrix,
    parts,
    SECOND: tl.constexpr,
    THIRD: tl.constexpr,
):
    program = tl.program_id(0)
    j = program // parts
    k = program % parts * SECOND + tl.arange(0, SECOND)
    pairs = (k > j) & (k < count)
    row_j, rows_k = j.to(tl.int64) * count, k.to(tl.int64) * count
    teacher_squares_ptr, teacher_inverses_ptr = squares_ptr + matrix, inverses_ptr + matrix
    s_jk = tl.load(squares_ptr + row_j + k, pairs, other=0)
    t_jk = tl.load(teacher_squares_ptr + row_j + k, pairs, other=0)
    p_jk = tl.load(inverses_ptr + row_j + k, pairs, other=0)
    q_jk = tl.load(teacher_inverses_ptr + row_j + k, pairs, other=0)

    by = tl.zeros([SECOND], p_jk.dtype)
    losses = tl.zeros([SECOND], p_jk.dtype)
    # Where no point of this part is a later one, there is nothing to do.
    for start in range(0, tl.where(program % parts * SECOND + SECOND > j + 1, count, 0), THIRD):
        i = start + tl.arange(0, THIRD)
        of_j, of_k = row_j + i[None, :], rows_k[:, None] + i[None, :]
        third = (i < count)[None, :] & pairs[:, None] & (i != j)[None, :] & (i[None, :] != k[:, None])
        s_j, s_k = tl.load(squares_ptr + of_j, third, other=0), tl.load(squares_ptr + of_k, third, other=0)
        t_j = tl.load(teacher_squares_ptr + of_j, third, other=0)
        t_k = tl.load(teacher_squares_ptr + of_k, third, other=0)
        p_j, p_k = tl.load(inverses_ptr + of_j, third, other=0), tl.load(inverses_ptr + of_k, third, other=0)
        q_j = tl.load(teacher_inverses_ptr + of_j, third, other=0)
        q_k = tl.load(teacher_inverses_ptr + of_k, third, other=0)
        s, t = s_jk[:, None], t_jk[:, None]
        p, q = p_jk[:, None], q_jk[:, None]
        # The corners at j and k; then the one at i, whose loss is counted here.
        _, pull_j, turn_j = _corner(s + (s_j - s_k), p, p_j, t + (t_j - t_k), q, q_j)
        _, pull_k, turn_k = _corner(s - (s_j - s_k), p, p_k, t - (t_j - t_k), q, q_k)
        loss, pull_i, _ = _corner((s_j - s) + s_k, p_j, p_k, (t_j - t) + t_k, q_j, q_k)
        by_side = (pull_j + pull_k - pull_i) - (turn_j + turn_k) * (0.5 * p * p)
        by += tl.sum(tl.where(third, by_side, 0.0), 1)
        losses += tl.sum(tl.where(third, loss, 0.0), 1)

    mean = tl.load(means_ptr)
    least = square(scalar(_SHORTEST, mean) / mean)
    length = _length(s_jk, least)
    gap = length - _length(t_jk, square(scalar(_SHORTEST, mean) / tl.load(means_ptr + 1)))
    slope = _slope(gap)
    # A direction that only one of the networks has differs from none by one, from either end.
    alone = tl.where((p_jk == 0) == (q_jk == 0), 0.0, 0.5).to(tl.float64)
    loss = distance_weight * slope * (gap - 0.5 * slope) + angle_weight * (losses.to(tl.float64) + alone)
    tl.store(sums_ptr + program, tl.sum(tl.where(pairs, loss, 0.0), 0))
    tl.store(sums_ptr + count * parts + program, tl.sum(tl.where(pairs, slope * length, 0.0), 0))

    by_length = tl.where(s_jk < least, 0.0, distance_weight * slope * p_jk.to(tl.float64))
    derivative = ((2 * angle_weight * by.to(tl.float64) + by_length) / (mean * mean)).to(by.dtype)
    tl.store(by_square_ptr + row_j + k, derivative, pairs)
    tl.store(by_square_ptr + rows_k + j, derivative, pairs)


@triton.jit
def gradient(
    x_ptr,
    squares_ptr,
    inverses_ptr,
    means_ptr,
    by_square_ptr,
    by_mean_ptr,
    grad_ptr,
    count,
    features,
    runs,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    i = program // runs * ROWS + tl.arange(0, ROWS)
    column = program % runs * BLOCK + tl.arange(0, BLOCK)
    inside = column < features
    offset = i.to(tl.int64)[:, None] * features + column[None, :]
    mask = (i < count)[:, None] & inside[None, :]
    mean = tl.load(means_ptr)
    least = square(scalar(_SHORTEST, mean) / mean)
    by_mean = tl.load(by_mean_ptr) / (mean * mean)
    own = widen(tl.load(x_ptr + offset, mask, other=0))
    total = tl.zeros_like(own)
    other_ptr = x_ptr + column
    at = i.to(tl.int64)
    for j in range(0, count):
        other = widen(tl.load(other_ptr, inside, other=0))
        sides = (i < count) & (i != j)
        held = tl.load(squares_ptr + at, sides, other=0) < least
        inverse = tl.load(inverses_ptr + at, sides, other=0)
        by = tl.load(by_square_ptr + at, sides, other=0) - tl.where(held, 0.0, by_mean.to(own.dtype) * inverse)
        total += by[:, None] * (own - other[None, :])
        other_ptr += features
        at += count
    tl.store(grad_ptr + offset, total, mask)


@triton.jit
def _length(squares, least):
    return tl.sqrt(tl.where(squares < least, least, squares))


@triton.jit
def _slope(gap):
    """Derivative of the smooth L1 loss; NaN stays."""
    capped = tl.where(gap > 1, 1.0, gap)
    return tl.where(capped < -1, -1.0, capped)


@triton.jit
def _corner(s, s_p, s_q, t, t_p, t_q):
    """Compare the angle between two sides of inverse lengths p and q, given the cosines' numerators s and t.

    Returns the smooth L1 loss of student (s) and teacher (t), its derivative w.r.t. the numerator, and what the sides'
    lengths take back of that.
    """
    half = 0.5 * s_p * s_q
    cosine = s.to(half.dtype) * half
    gap = cosine - t.to(half.dtype) * (0.5 * t_p * t_q)
    slope = _slope(gap)
    return slope * (gap - 0.5 * slope), slope * half, slope * cosine
