"""Distillation losses between softmax rows: kl, kd, js and dkd. Kernel and cost: :mod:`fastadv.kernels.rows`."""

from __future__ import annotations

from torch import Tensor

from fastadv.kernels import rows


def kl_distill(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.kl_distill`."""
    needs_grad = (student_grad, teacher_grad)
    return rows.logit_loss(rows.KL, student, teacher, None, needs_grad, scale, reduce, weight, temperature=temperature)


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.kd_loss`."""
    needs_grad = (student_grad, teacher_grad)
    return rows.logit_loss(
        rows.KD, student, teacher, target, needs_grad, scale, reduce, weight, temperature=temperature, alpha=alpha
    )


def js_distill(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.js_distill`."""
    needs_grad = (student_grad, teacher_grad)
    return rows.logit_loss(rows.JS, student, teacher, None, needs_grad, scale, reduce, weight, temperature=temperature)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
    weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Launcher of :func:`fastadv.dkd_loss`."""
    needs_grad = (student_grad, teacher_grad)
    given = (rows.DKD, student, teacher, target, needs_grad, scale, reduce, weight)
    return rows.logit_loss(*given, temperature=temperature, alpha=alpha, beta=beta)
