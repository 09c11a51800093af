"""Losses that match what student and teacher lose, respond or activate, rather than what they predict."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, per_sample, reduce, sample_dims
from fastadv.reference.divergence import (
    cross_entropy,
    cross_entropy_value_and_grad,
    kl_distill,
    kl_distill_value_and_grad,
)


def loss_matching(
    student: Tensor, teacher: Tensor, target: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """See :func:`fastadv.loss_matching`."""
    gap = cross_entropy(student, target) - cross_entropy(teacher, target)
    return reduce(gap.square(), weight, reduction)


def loss_matching_value_and_grad(student: Tensor, teacher: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. the student's and the teacher's logits, both [N, C]."""
    student_loss, student_grad = cross_entropy_value_and_grad(student, target)
    teacher_loss, teacher_grad = cross_entropy_value_and_grad(teacher, target)
    gap = student_loss - teacher_loss
    return gap.square(), 2 * gap[:, None] * student_grad, -2 * gap[:, None] * teacher_grad


def igdm_loss(
    student_plus: Tensor,
    student_minus: Tensor,
    teacher_plus: Tensor,
    teacher_minus: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    """See :func:`fastadv.igdm_loss`."""
    student, teacher = _responses(student_plus, student_minus, teacher_plus, teacher_minus)
    return reduce(kl_distill(student, teacher, reduction="none"), weight, reduction)


def igdm_loss_value_and_grad(
    student_plus: Tensor, student_minus: Tensor, teacher_plus: Tensor, teacher_minus: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. each of the four logits, all [N, C]."""
    student, teacher = _responses(student_plus, student_minus, teacher_plus, teacher_minus)
    loss, student_grad, teacher_grad = kl_distill_value_and_grad(student, teacher)
    return loss, student_grad, -student_grad, teacher_grad, -teacher_grad


def activation_boundary_loss(
    student: Tensor, teacher: Tensor, *, margin: float | Tensor = 1.0, reduction: str = "batchmean"
) -> Tensor:
    """See :func:`fastadv.activation_boundary_loss`."""
    shortfall = _shortfall(accumulate(student), teacher, margin)
    return reduce(shortfall.square().sum(sample_dims(student)), None, reduction)


def activation_boundary_loss_value_and_grad(
    student: Tensor, teacher: Tensor, *, margin: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Loss [N] and its gradient w.r.t. the student's pre-activations [N, ...]."""
    shortfall = _shortfall(accumulate(student), teacher, margin)
    return shortfall.square().sum(sample_dims(student)), 2 * shortfall


def _shortfall(student: Tensor, teacher: Tensor, margin: float | Tensor) -> Tensor:
    """Distance of the student from the right side of the margin, signed; zero where the teacher is NaN."""
    reach = per_sample(margin, student)
    inactive = torch.where(teacher <= 0, (student + reach).clamp_min(0), 0)
    return torch.where(teacher > 0, (student - reach).clamp_max(0), inactive)


def _responses(
    student_plus: Tensor, student_minus: Tensor, teacher_plus: Tensor, teacher_minus: Tensor
) -> tuple[Tensor, Tensor]:
    student = accumulate(student_plus) - accumulate(student_minus)
    return student, accumulate(teacher_plus) - accumulate(teacher_minus)
