"""Losses of a step on clean images as RepDistiller, mdistiller and the methods' own codes write them.

x, y: images [N, ...] and classes [N]. The defaults are the published weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opponents import losses
from fastadv.distill import Features


def kd(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Hinton's distillation: soft and hard targets, 0.9 to 0.1, at temperature 4."""
    with torch.no_grad():
        of_teacher = teacher(x)
    return losses.kd_loss(student(x), of_teacher, y, 4.0, 0.9)


def see(student: nn.Module, teacher: nn.Module, x: Tensor) -> tuple[Features, Features]:
    """Features of the images in both networks."""
    of_student = student.with_features(x)
    with torch.no_grad():
        of_teacher = teacher.with_features(x)
    return of_student, of_teacher


def weighted(
    student: Tensor,
    teacher: Tensor,
    y: Tensor,
    distance: Tensor,
    *,
    beta: float,
    alpha: float = 0.0,
    temperature: float = 4.0,
) -> Tensor:
    """The sum of RepDistiller's loop, which computes all three terms whatever their weights are."""
    hard, soft = F.cross_entropy(student, y), losses.kl_distill(student, teacher, temperature)
    return 1.0 * hard + alpha * soft + beta * distance


def dkd(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, *, risen: float) -> Tensor:
    """Decoupled distillation as mdistiller's loop has it; risen: the share of its ramp."""
    of_student = student(x)
    with torch.no_grad():
        of_teacher = teacher(x)
    decoupled = losses.dkd_loss(of_student, of_teacher, y, 4.0, 1.0, 8.0)
    return F.cross_entropy(of_student, y) + risen * decoupled


def triplet(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, negatives: Tensor) -> Tensor:
    """Triplets of logits as the released code weighs them; negatives: where in the batch each image finds its own."""
    of_student = student(x)
    with torch.no_grad():
        of_teacher = teacher(x)
    distance = F.triplet_margin_loss(of_teacher, of_student, of_student[negatives], margin=5.0)
    return weighted(of_student, of_teacher, y, distance, beta=2.0, alpha=1.0, temperature=1.0)


def ai_kd(
    student: nn.Module,
    teacher: nn.Module,
    previous: nn.Module,
    discriminator: nn.Module,
    x: Tensor,
    y: Tensor,
    progress: float,
) -> tuple[Tensor, Tensor]:
    """The losses of student and discriminator, from the same forwards."""
    of_student = student(x)
    with torch.no_grad():
        of_teacher, of_previous = teacher(x), previous(x)
    score = discriminator(of_student)
    loss = (
        F.cross_entropy(of_student, y)
        + losses.kl_distill(of_student, of_teacher, 4.0)
        + 0.8 * progress * losses.kl_distill(of_student, of_previous, 4.0)
        + 0.1 * F.binary_cross_entropy_with_logits(score, torch.ones_like(score))
    )
    real, fake = discriminator(of_teacher), discriminator(of_student.detach())
    of_discriminator = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    return loss, of_discriminator + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
