"""Losses that match what student and teacher lose: loss_matching. Kernel and cost: :mod:`fastadv.kernels.rows`."""

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
) -> tuple[Tensor, Tensor, Tensor]:
    """Launcher of :func:`fastadv.loss_matching`."""
    how = (weight, scale, reduce, student_grad, teacher_grad)
    return rows.logit_loss(rows.LOSS_MATCHING.value, student, teacher, target, 1.0, 1.0, *how)
