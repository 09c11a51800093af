"""Losses on features as people write them, and their gradients through autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def triplet_margin_loss_and_gradients(anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
    """Loss of each triplet and gradients of their sum, through autograd."""
    leaves = [x.detach().requires_grad_() for x in (anchor, positive, negative)]
    loss = F.triplet_margin_loss(leaves[0], leaves[1], leaves[2], reduction="none")
    return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


def rkd_loss(student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float) -> Tensor:
    """Relational distillation as RepDistiller writes it: distances of products, angles of B x B x D differences."""

    def lengths(x: Tensor) -> Tensor:
        squares = x.pow(2).sum(dim=1)
        d = (squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * (x @ x.t())).clamp(min=1e-12).sqrt()
        d = d.clone()
        d[range(len(x)), range(len(x))] = 0
        return d / d[d > 0].mean()

    def angles(x: Tensor) -> Tensor:
        directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), p=2, dim=2)
        return torch.bmm(directions, directions.transpose(1, 2)).view(-1)

    with torch.no_grad():
        teacher_lengths, teacher_angles = lengths(teacher), angles(teacher)
    of_lengths = F.smooth_l1_loss(lengths(student), teacher_lengths)
    return distance_weight * of_lengths + angle_weight * F.smooth_l1_loss(angles(student), teacher_angles)


def activation_boundary_sum(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """The activation boundary loss of a layer as RepDistiller writes it, summed over the batch."""
    loss = (student + margin) ** 2 * ((student > -margin) & (teacher <= 0)).float() + (student - margin) ** 2 * (
        (student <= margin) & (teacher > 0)
    ).float()
    return torch.abs(loss).sum()


def activation_boundary_loss(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """The mean of it over the batch."""
    return activation_boundary_sum(student, teacher, margin) / student.shape[0]


def activation_boundary_sum_and_gradient(student: Tensor, teacher: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Its sum over the batch and the gradient of that, through autograd."""
    student = student.detach().requires_grad_()
    loss = activation_boundary_sum(student, teacher, margin)
    return loss.detach(), torch.autograd.grad(loss, student)[0]
