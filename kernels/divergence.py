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
    how = (scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.KL.value, student, teacher, None, temperature, 1.0, *how, weight=weight)


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
    how = (scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.KD.value, student, teacher, target, temperature, alpha, *how, weight=weight)


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
    how = (scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.JS.value, student, teacher, None, temperature, 1.0, *how, weight=weight)


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
    how = (scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.DKD.value, student, teacher, target, temperature, alpha, *how, weight=weight, beta=beta)
