"""Losses on features as people write them, and their gradients through autograd."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pairs = Iterable[tuple[Tensor, Tensor]]


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


def activation_boundary_total(pairs: Pairs) -> Tensor:
    """The loss of all layers as RepDistiller weighs it, of the student's and the teacher's pre-activations."""
    losses = [activation_boundary_loss(student, teacher, 1.0) for student, teacher in pairs]
    weighted = [loss / 2 ** (len(losses) - number - 1) for number, loss in enumerate(losses)]
    return torch.stack(weighted).sum() / 1000 * 3


def attention(x: Tensor) -> Tensor:
    """Attention of maps, as RepDistiller writes it: [N, H W], of l2 length one."""
    return F.normalize(x.pow(2).mean(1).view(x.shape[0], -1))


def attention_loss(pairs: Pairs) -> Tensor:
    """Attention transfer as RepDistiller writes it, of maps of one size."""
    return torch.stack([(attention(s) - attention(t)).pow(2).mean() for s, t in pairs]).sum()


def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Factor transfer as RepDistiller writes it, of factors of one size."""
    return (attention(student) - attention(teacher)).abs().mean()


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity preserving as RepDistiller writes it, of the last maps."""

    def similarities(x: Tensor) -> Tensor:
        rows = x.view(x.shape[0], -1)
        return F.normalize(torch.mm(rows, rows.t()))

    difference = similarities(teacher) - similarities(student)
    return (difference * difference).sum() / student.shape[0] ** 2


def variational_loss(student: Tensor, teacher: Tensor, mean: nn.Module, scale: Tensor) -> Tensor:
    """Variational information of a map as RepDistiller writes it; ``mean`` and ``scale`` are learned."""
    variance = (torch.log(1 + torch.exp(scale)) + 1e-5).view(1, -1, 1, 1)
    return torch.mean(0.5 * ((mean(student) - teacher) ** 2 / variance + torch.log(variance)))


class ContrastiveMemory:
    """One network's memory in CRD as RepDistiller keeps it: [images, width]; Z is set by the first batch."""

    def __init__(self, rows: Tensor, temperature: float, momentum: float) -> None:
        self.rows, self.temperature, self.momentum = rows, temperature, momentum
        self.partition: Tensor | None = None

    def contrast(self, anchors: Tensor, places: Tensor) -> Tensor:
        """The loss of anchors [N, width], whose own row is the first of their ``places`` [N, 1 + K]."""
        batch, width = anchors.shape
        gathered = self.rows.index_select(0, places.flatten()).view(batch, -1, width)
        likeness = torch.exp(torch.bmm(gathered, anchors.view(batch, width, 1)).squeeze(2) / self.temperature)
        images, noise = len(self.rows), (places.shape[1] - 1) / len(self.rows)
        if self.partition is None:
            self.partition = likeness.detach().mean() * images
        p = likeness / self.partition
        of_positive = torch.div(p[:, 0], p[:, 0] + noise + 1e-7).log().sum()
        of_negatives = torch.div(noise, p[:, 1:] + noise + 1e-7).log().sum()
        return -(of_positive + of_negatives) / batch

    @torch.no_grad()
    def remember(self, embeddings: Tensor, index: Tensor) -> None:
        rows = self.rows.index_select(0, index) * self.momentum + embeddings * (1 - self.momentum)
        self.rows.index_copy_(0, index, rows / rows.pow(2).sum(1, keepdim=True).sqrt())
