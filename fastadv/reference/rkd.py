"""Relational distillation: the student's batch is to have the teacher's shape."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.reference._common import accumulate

# A length is at least this in the distances.
SHORTEST = 1e-6
# Points no farther apart coincide: they have no direction.
COINCIDENT = 1e-12


def rkd_loss(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """See :func:`fastadv.rkd_loss`."""
    student, teacher = accumulate(student), accumulate(teacher)
    batch = student.shape[0]
    loss = student[:0].sum()
    if batch < 2:
        return loss
    gap = _relative_lengths(student) - _relative_lengths(teacher)
    loss = loss + distance_weight * _smooth_l1(gap).mean()
    for i in range(batch):
        directions, _ = _directions(student, i)
        others, _ = _directions(teacher, i)
        angle_gap = directions @ directions.T - others @ others.T
        loss = loss + angle_weight * _smooth_l1(angle_gap).sum() / batch**3
    return loss


def rkd_loss_value_and_grad(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> tuple[Tensor, Tensor]:
    """Loss [] and its gradient w.r.t. the student's features [B, D]."""
    student, teacher = accumulate(student), accumulate(teacher)
    batch = student.shape[0]
    loss, grad = student[:0].sum(), torch.zeros_like(student)
    if batch < 2:
        return loss, grad
    lengths = _lengths(student)
    mean = lengths.sum() / (batch * (batch - 1))
    relative = lengths / mean
    gap = relative - _relative_lengths(teacher)
    loss = loss + distance_weight * _smooth_l1(gap).mean()
    slope = distance_weight / batch**2 * gap.clamp(-1, 1)
    # Each length counts by itself and through the mean of all.
    grad_length = (slope - (slope * relative).sum() / (batch * (batch - 1))) / mean
    grad_length = torch.where(lengths > SHORTEST, grad_length, 0.0)
    for i in range(batch):
        directions, inverse_lengths = _directions(student, i)
        others, _ = _directions(teacher, i)
        cosines = directions @ directions.T
        angle_gap = cosines - others @ others.T
        loss = loss + angle_weight * _smooth_l1(angle_gap).sum() / batch**3
        slope = 2 * angle_weight / batch**3 * angle_gap.clamp(-1, 1)
        # What turns a direction moves its end across it.
        across = slope @ directions - (slope * cosines).sum(1, keepdim=True) * directions
        grad_end = across * inverse_lengths + grad_length[i, :, None] * directions
        grad += grad_end
        grad[i] -= grad_end.sum(0)
    return loss, grad


def _relative_lengths(x: Tensor) -> Tensor:
    """Distances [B, B] in units of their mean; all but those on the diagonal are positive."""
    lengths = _lengths(x)
    return lengths / (lengths.sum() / (x.shape[0] * (x.shape[0] - 1)))


def _lengths(x: Tensor) -> Tensor:
    # Difference by difference: as a product of matrices, near points would drown in rounding.
    squares = torch.stack([(x - x[i]).square().sum(1) for i in range(x.shape[0])])
    return squares.clamp(min=SHORTEST**2).sqrt() * (1 - torch.eye(x.shape[0], dtype=x.dtype, device=x.device))


def _directions(x: Tensor, i: int) -> tuple[Tensor, Tensor]:
    """Unit vectors [B, D] from point i to all, inverse lengths [B, 1]; zero for points that coincide with i."""
    differences = x - x[i]
    squares = differences.square().sum(1, keepdim=True)
    coincident = squares <= COINCIDENT**2
    inverse_lengths = torch.where(coincident, 0.0, torch.where(coincident, 1.0, squares).rsqrt())
    return differences * inverse_lengths, inverse_lengths


def _smooth_l1(gap: Tensor) -> Tensor:
    slope = gap.clamp(-1, 1)
    return slope * (gap - 0.5 * slope)
