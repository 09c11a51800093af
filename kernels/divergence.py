"""Distillation losses between softmax rows: kl_distill and kd_loss. Kernel and cost: :mod:`fastadv.kernels.rows`."""

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
) -> tuple[Tensor, Tensor, Tensor]:
    """Launcher of :func:`fastadv.kl_distill`."""
    how = (weight, scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.KL.value, student, teacher, None, temperature, 1.0, *how)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Launcher of :func:`fastadv.kd_loss`."""
    how = (weight, scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.KD.value, student, teacher, target, temperature, alpha, *how)
