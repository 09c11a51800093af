"""Losses that match what student and teacher lose or respond, rather than what they predict."""

from __future__ import annotations

from torch import Tensor

from fastadv.reference._common import reduce
from fastadv.reference.divergence import cross_entropy, cross_entropy_value_and_grad


def loss_matching(
    student: Tensor, teacher: Tensor, target: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """See :func:`fastadv.loss_matching`."""
    gap = cross_entropy(student, target) - cross_entropy(teacher, target)
    return reduce(gap.square(), weight, reduction)


def loss_matching_value_and_grad(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients by the student's and the teacher's logits, both [N, C]."""
    student_loss, student_grad = cross_entropy_value_and_grad(student, target)
    teacher_loss, teacher_grad = cross_entropy_value_and_grad(teacher, target)
    gap = student_loss - teacher_loss
    return gap.square(), 2 * gap[:, None] * student_grad, -2 * gap[:, None] * teacher_grad
