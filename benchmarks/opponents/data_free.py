"""Losses of a step without training images: DFAD as its published code writes it, and the two terms added to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opponents import features, steps


def student_loss(
    student: nn.Module,
    teacher: nn.Module,
    generator: nn.Module,
    connectors: nn.ModuleList,
    z: Tensor,
    share: Tensor,
    progress: float,
) -> Tensor:
    """The student's: on images of ``z`` [N, latent], and between neighbours of them, at ``share`` [N]."""
    with torch.no_grad():
        x = generator(z)
    partner = torch.arange(len(x), device=x.device).roll(1)
    mixed = steps.mix(x, share.view(-1, 1, 1, 1), partner)
    of_student = student.with_features(torch.cat([x, mixed]))
    with torch.no_grad():
        of_teacher = teacher.with_features(x)
    on_generated, on_mixed = of_student.logits.chunk(2)
    virtual = steps.mix(of_teacher.logits, share.view(-1, 1), partner)
    pairs = (
        (connector(ours.chunk(2)[0]), theirs)
        for connector, ours, theirs in zip(
            connectors, of_student.preactivations, of_teacher.preactivations, strict=True
        )
    )
    activation = features.activation_boundary_total(pairs)
    return F.l1_loss(on_generated, of_teacher.logits) + F.l1_loss(on_mixed, virtual) + (1 - progress) * activation


def generator_loss(student: nn.Module, teacher: nn.Module, generator: nn.Module, z: Tensor) -> Tensor:
    """The generator's, which looks for images on which the networks differ."""
    x = generator(z)
    return -F.l1_loss(student(x), teacher(x))
