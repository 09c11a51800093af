"""Losses that match what student and teacher lose or respond. Kernel and cost: :mod:`fastadv.kernels.rows`."""

from __future__ import annotations

from torch import Tensor

from fastadv.kernels import rows


def loss_matching(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    student_grad: bool,
    teacher_grad: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.loss_matching`."""
    return rows.logit_loss(
        rows.LOSS_MATCHING.value, student, teacher, target, 1.0, 1.0, weight, scale, reduce, student_grad, teacher_grad
    )


def igdm_loss(
    student_plus: Tensor,
    student_minus: Tensor,
    teacher_plus: Tensor,
    teacher_minus: Tensor,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    *wanted: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.igdm_loss`."""
    minus = (student_minus, teacher_minus)
    return rows.logit_loss(
        rows.KL.value, student_plus, teacher_plus, None, 1.0, 1.0, weight, scale, reduce, *wanted, minus=minus
    )
