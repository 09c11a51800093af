"""Distillation losses between softmax rows: kl, kd, js and dkd. Kernel and cost: :mod:`fastadv.kernels.rows`."""

from __future__ import annotations

from torch import Tensor

from fastadv.kernels import rows


def kl_distill(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.kl_distill`."""
    return rows.logit_loss(
        rows.KL.value, student, teacher, None, temperature, 1.0, weight, scale, reduce, student_grad, teacher_grad
    )


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.kd_loss`."""
    return rows.logit_loss(
        rows.KD.value, student, teacher, target, temperature, alpha, weight, scale, reduce, student_grad, teacher_grad
    )


def js_distill(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.js_distill`."""
    return rows.logit_loss(
        rows.JS.value, student, teacher, None, temperature, 1.0, weight, scale, reduce, student_grad, teacher_grad
    )


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.dkd_loss`."""
    return rows.logit_loss(
        rows.DKD.value,
        student,
        teacher,
        target,
        temperature,
        alpha,
        weight,
        scale,
        reduce,
        student_grad,
        teacher_grad,
        beta=beta,
    )
