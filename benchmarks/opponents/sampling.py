"""Losses of a step that attacks the teacher: TALD, BSS and AMKD.

x, y: images [N, ...] and classes [N]; progress: the share of training that is done. Attacks ask autograd for the
gradient by the images alone while parameters keep requires_grad.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opponents import loops, losses
from benchmarks.opponents.distillation import see
from fastadv.distill import Features


def particles(
    teacher: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    eps: float = 8 / 255,
    count: int = 3,
    gradient: loops.Gradient = loops.by_images,
) -> Tensor:
    """TALD's particles [N, n, ...]: projected SVGD on the teacher's cross-entropy from ``start``, ``count`` steps."""
    return loops.svgd_from(start, teacher, x, y, eps, 2.5 * eps / count, count, balanced=True, gradient=gradient)


def tald(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, moved: Tensor) -> Tensor:
    """KD, and the losses of both networks matched on the particles [N, n, ...] and the clean images."""
    rows, copies = moved.flatten(0, 1), moved.shape[1]
    images, classes = torch.cat([rows, x]), torch.cat([y.repeat_interleave(copies), y])
    of_student = student(images)
    with torch.no_grad():
        of_teacher = teacher(images)
    clean = slice(len(rows), None)
    base = losses.kd_loss(of_student[clean], of_teacher[clean], y, 4.0, 0.9)
    return base + 0.01 * losses.loss_matching(of_student, of_teacher, classes)


class Boundary(NamedTuple):
    """Images at the teacher's boundaries: where in the batch they come from, where to they went, what networks show."""

    candidates: Tensor
    target: Tensor
    student: Features
    teacher: Features


def bss(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, noise: Tensor, progress: float) -> Tensor:
    """BSS as its released code writes it, in divergences; noise: standard Gumbel [N, C], which draws the targets."""
    return _bss(student, teacher, x, y, noise, progress)[0]


def amkd(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, noise: Tensor, progress: float) -> Tensor:
    """BSS, and triplets of embeddings at the boundaries, for networks whose embeddings have one length."""
    loss, clean, boundary = _bss(student, teacher, x, y, noise, progress)
    if boundary is None:
        return loss
    anchor, positive, images = (F.normalize(shown.embedding) for shown in (boundary.teacher, boundary.student, clean))
    of_target, of_others = y == boundary.target.unsqueeze(1), y != y[boundary.candidates].unsqueeze(1)
    allowed = torch.where(of_target.any(1, keepdim=True), of_target, of_others)
    nearest = torch.cdist(anchor, images.detach()).masked_fill(~allowed, float("inf")).argmin(1)
    return loss + F.triplet_margin_loss(anchor, positive, images[nearest], margin=0.5)


def _bss(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, noise: Tensor, progress: float
) -> tuple[Tensor, Features, Boundary | None]:
    """The loss, what the student shows of the clean images, and the boundary samples where there are any."""
    clean, taught = see(student, teacher, x)
    soft = _softened(clean, taught)
    loss = F.cross_entropy(clean.logits, y) + (1 + 3 * (1 - progress)) * soft
    weight = max(2 * (1 - 4 / 3 * progress), 0)
    candidates = _candidates(clean.logits.detach(), taught.logits, y)
    if weight == 0 or len(candidates) == 0:
        return loss, clean, None
    predicted = taught.logits[candidates].argmax(1, keepdim=True)
    target = (taught.logits + noise)[candidates].scatter(1, predicted, -float("inf")).argmax(1)
    moved = loops.bss(teacher, x[candidates], target, steps=10, step_size=0.06)
    boundary = Boundary(candidates, target, *see(student, teacher, moved))
    return loss + weight * _softened(boundary.student, boundary.teacher), clean, boundary


def _candidates(student: Tensor, teacher: Tensor, y: Tensor, size: int = 64) -> Tensor:
    """The images that both networks know, ``size`` at most: those on which they differ most."""
    known = ((teacher.argmax(1) == y) & (student.argmax(1) == y)).nonzero().squeeze(1)
    if len(known) <= size:
        return known
    gap = (F.softmax(teacher, dim=1) - F.softmax(student, dim=1)).pow(2).scatter(1, y.unsqueeze(1), 0)
    return known[gap[known].sum(1).topk(size).indices]


def _softened(student: Features, teacher: Features) -> Tensor:
    """The divergence at temperature 3, without the square of it."""
    return losses.kl_distill(student.logits, teacher.logits, 3.0) / 3.0**2
