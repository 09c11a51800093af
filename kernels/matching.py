"""Losses that match the losses, responses or activations of student and teacher.

Kernel and cost of those of logits: :mod:`fastadv.kernels.rows`. activation_boundary_loss: a program a block of a
sample, which reads student and teacher once and writes 4 (float64: 8) bytes of gradient an element and the block's sum;
a second, deterministic launch adds the sums up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastadv.kernels import rows
from fastadv.kernels.launch import accumulator, block, launch
from fastadv.kernels.loss import reduced
from fastadv.kernels.numerics import per_sample, weighted, widen


def loss_matching(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.loss_matching`."""
    needs_grad = (student_grad, teacher_grad)
    return rows.logit_loss(rows.LOSS_MATCHING, student, teacher, target, needs_grad, scale, reduce, weight)


def igdm_loss(
    student_plus: Tensor,
    student_minus: Tensor,
    teacher_plus: Tensor,
    teacher_minus: Tensor,
    scale: float,
    reduce: bool,
    student_plus_grad: bool,
    student_minus_grad: bool,
    teacher_plus_grad: bool,
    teacher_minus_grad: bool,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.igdm_loss`."""
    minus = (student_minus, teacher_minus)
    needs_grad = (student_plus_grad, student_minus_grad, teacher_plus_grad, teacher_minus_grad)
    return rows.logit_loss(rows.KL, student_plus, teacher_plus, None, needs_grad, scale, reduce, weight, minus=minus)


def activation_boundary_loss(
    student: Tensor,
    teacher: Tensor,
    margin: float,
    scale: float,
    reduce: bool,
    student_grad: bool,
    margin_n: Tensor | None,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Launcher of :func:`fastadv.activation_boundary_loss`."""
    dtype, samples = accumulator(student), student.shape[0]
    grad = torch.empty_like(student, dtype=dtype) if student_grad else None
    elements = student.numel() // max(samples, 1)
    columns = block(elements, student) if elements else 1
    parts = triton.cdiv(elements, columns)
    sums = student.new_empty([samples, parts], dtype=dtype)
    if student.numel():
        tensors = (student, teacher, margin_n, weight, sums, grad)
        numbers = (margin, scale, elements, parts)
        launch(boundaries, samples * parts, *tensors, *numbers, elements=columns, BLOCK=columns)
    return reduced(sums, scale, True) if reduce else sums.sum(1), grad


@triton.jit
def boundaries(
    student_ptr,
    teacher_ptr,
    margin_ptr,
    weight_ptr,
    sums_ptr,
    grad_ptr,
    margin: tl.float64,
    scale: tl.float64,
    elements,
    parts,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    sample = program // parts
    column = program % parts * BLOCK + tl.arange(0, BLOCK)
    mask = column < elements
    offset = sample * elements + column
    # A teacher that is NaN asks for nothing, and neither do the elements past the end.
    student = widen(tl.load(student_ptr + offset, mask, other=0))
    teacher = widen(tl.load(teacher_ptr + offset, mask, other=float("nan")))
    reach = per_sample(margin, margin_ptr, sample, None, student)
    factor = weighted(scale, weight_ptr, sample, None, reach)
    below, above = student - reach, student + reach
    shortfall = tl.where(teacher > 0, tl.where(below >= 0, 0.0, below), 0.0)
    shortfall = tl.where(teacher <= 0, tl.where(above <= 0, 0.0, above), shortfall)
    tl.store(sums_ptr + program, factor * tl.sum(shortfall * shortfall, 0))
    if grad_ptr is not None:
        tl.store(grad_ptr + offset, 2 * factor * shortfall, mask)
