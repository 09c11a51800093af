"""The formulas as people write them in PyTorch today: what fastadv is measured against.

They are not the oracle of the tests, which is :mod:`fastadv.reference`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pgd_step_linf(x: Tensor, grad: Tensor, x0: Tensor, eps: float, step_size: float) -> Tensor:
    """The body of a linf PGD loop as torchattacks writes it."""
    x = x.detach() + step_size * grad.sign()
    delta = torch.clamp(x - x0, min=-eps, max=eps)
    return torch.clamp(x0 + delta, min=0, max=1).detach()


def pgd_step_l2(x: Tensor, grad: Tensor, x0: Tensor, eps: float, step_size: float) -> Tensor:
    """The body of an l2 PGD loop as torchattacks writes it."""
    batch = x.shape[0]
    norms = torch.norm(grad.reshape(batch, -1), p=2, dim=1) + 1e-10
    x = x.detach() + step_size * (grad / norms.view(batch, 1, 1, 1))
    delta = x - x0
    factor = eps / torch.norm(delta.reshape(batch, -1), p=2, dim=1)
    factor = torch.min(factor, torch.ones_like(factor))
    return torch.clamp(x0 + delta * factor.view(-1, 1, 1, 1), min=0, max=1).detach()


def pgd_step_l1(x: Tensor, grad: Tensor, x0: Tensor, eps: float, step_size: float, largest: int) -> Tensor:
    """A sparse l1 step, then AutoAttack's exact projection onto l1 ball and box, which sorts all breakpoints."""
    batch = x.shape[0]
    flat_grad, centre = grad.reshape(batch, -1), x0.reshape(batch, -1)
    least = flat_grad.abs().topk(largest, dim=1).values[:, -1:]
    chosen = (flat_grad.abs() >= least).float()
    moved = x.reshape(batch, -1) + step_size * flat_grad.sign() * chosen / chosen.sum(1, keepdim=True)
    delta = moved - centre
    # How much must be taken from a coordinate before it is back in the box, and before nothing of it is left.
    back = (torch.maximum(-moved, moved - 1)).clamp(min=0)
    breakpoints, order = torch.cat((back, delta.abs()), 1).sort(1)
    slopes = (1 - 2 * (order < back.shape[1]).float()).cumsum(1)
    pieces = slopes[:, :-1] * breakpoints.diff(dim=1)
    start = (delta.abs() - back).sum(1, keepdim=True)
    lengths = torch.cat((start, start + pieces.cumsum(1)), 1)
    last = ((lengths > eps).sum(1, keepdim=True) - 1).clamp(min=0)
    threshold = breakpoints.gather(1, last) + (lengths.gather(1, last) - eps) / -slopes.gather(1, last).clamp(max=-1)
    threshold = torch.where(start > eps, threshold, 0)
    taken = torch.minimum(torch.maximum(threshold, back), delta.abs())
    return (centre + delta.sign() * (delta.abs() - taken)).view_as(x)


def momentum_step(
    x: Tensor, grad: Tensor, momentum: Tensor, x0: Tensor, eps: float, step_size: float, decay: float
) -> tuple[Tensor, Tensor]:
    """The body of an MI-FGSM loop as torchattacks writes it."""
    grad = grad / torch.mean(torch.abs(grad), dim=(1, 2, 3), keepdim=True)
    grad = grad + momentum * decay
    x = x.detach() + step_size * grad.sign()
    delta = torch.clamp(x - x0, min=-eps, max=eps)
    return torch.clamp(x0 + delta, min=0, max=1).detach(), grad


def bss_step(x: Tensor, grad: Tensor, gap: Tensor, active: Tensor, step_size: float) -> Tensor:
    """The body of a BSS attack as its released code writes it, with pixels in [0, 1] and a norm that is not zero."""
    norms = torch.norm(grad.reshape(x.shape[0], -1), p=2, dim=1) + 1e-12
    length = step_size * active * (gap + 1e-4) / norms
    return torch.clamp(x + length.view(-1, 1, 1, 1) * grad, 0, 1)


def mix(x: Tensor, lam: float, permutation: Tensor) -> Tensor:
    """mixup as training loops write it."""
    return lam * x + (1 - lam) * x[permutation]


def svgd_step(particles: Tensor, score: Tensor, x0: Tensor, eps: float, step_size: float) -> Tensor:
    """A projected SVGD step with a per-image kernel and the median bandwidth, sign update, linf ball."""
    images, count = particles.shape[:2]
    flat, flat_score = particles.flatten(2), score.flatten(2)
    squared = torch.cdist(flat, flat).square()
    rows, columns = torch.triu_indices(count, count, 1, device=flat.device)
    median = squared[:, rows, columns].median(dim=1).values
    variance = (median / (2 * math.log(count + 1))).view(images, 1, 1)
    kernel = torch.exp(-squared / (2 * variance))
    attraction = torch.bmm(kernel, flat_score)
    repulsion = (kernel.sum(2, keepdim=True) * flat - torch.bmm(kernel, flat)) / variance
    phi = ((attraction + repulsion) / count).view_as(particles)
    moved = particles + step_size * phi.sign()
    centre = x0.unsqueeze(1)
    return torch.clamp(centre + torch.clamp(moved - centre, -eps, eps), 0, 1)


def kl_distill(student: Tensor, teacher: Tensor, temperature: float, reduction: str = "batchmean") -> Tensor:
    """Hinton's distillation loss as RepDistiller and most training loops write it; "none" gives [N]."""
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return _by_sample(F.kl_div(log_q, p, reduction=reduction)) * temperature**2


def kd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, alpha: float, reduction: str = "batchmean"
) -> Tensor:
    """Cross-entropy and distillation, weighted, as RepDistiller writes it; "none" gives [N]."""
    hard = F.cross_entropy(student, target, reduction="none" if reduction == "none" else "mean")
    return (1 - alpha) * hard + alpha * kl_distill(student, teacher, temperature, reduction)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
    reduction: str = "sum",
) -> Tensor:
    """Decoupled distillation as mdistiller writes it: masks, and a target pushed to -1000; "none" gives [N]."""
    hit = torch.zeros_like(student).scatter_(1, target.unsqueeze(1), 1).bool()

    def binary(logits: Tensor) -> Tensor:
        p = F.softmax(logits / temperature, dim=1)
        return torch.cat(((p * hit).sum(1, keepdim=True), (p * ~hit).sum(1, keepdim=True)), dim=1)

    of_target = _by_sample(F.kl_div(binary(student).log(), binary(teacher), reduction=reduction))
    log_q = F.log_softmax(student / temperature - 1000.0 * hit, dim=1)
    p = F.softmax(teacher / temperature - 1000.0 * hit, dim=1)
    loss = (alpha * of_target + beta * _by_sample(F.kl_div(log_q, p, reduction=reduction))) * temperature**2
    return loss if reduction == "none" else loss / target.shape[0]


def igdm_loss(
    student_plus: Tensor,
    student_minus: Tensor,
    teacher_plus: Tensor,
    teacher_minus: Tensor,
    reduction: str = "batchmean",
) -> Tensor:
    """Indirect gradient matching as its released code writes it; "none" gives [N]."""
    log_q = F.log_softmax(student_plus - student_minus, dim=1)
    return _by_sample(F.kl_div(log_q, F.softmax(teacher_plus - teacher_minus, dim=1), reduction=reduction))


def loss_matching(student: Tensor, teacher: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """The squared gap of the two networks' cross-entropies, as the released TALD code writes it; "none" gives [N]."""
    student_loss = F.cross_entropy(student, target, reduction="none")
    teacher_loss = F.cross_entropy(teacher, target, reduction="none")
    return F.mse_loss(student_loss, teacher_loss.detach(), reduction=reduction)


def _by_sample(loss: Tensor) -> Tensor:
    """A loss that is not reduced [N, C], summed over the classes."""
    return loss.sum(1) if loss.dim() == 2 else loss


def with_gradient(loss: Callable[..., Tensor], leaves: int = 1) -> Callable[..., tuple[Tensor, ...]]:
    """``loss`` of each sample and the gradients of their sum by its first ``leaves`` arguments, through autograd."""

    def value_and_gradients(*arguments: Any) -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_() for x in arguments[:leaves]]
        value = loss(*inputs, *arguments[leaves:], reduction="none")
        return value.detach(), *torch.autograd.grad(value.sum(), inputs)

    return value_and_gradients


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


def triplet_margin_loss_and_gradients(anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, ...]:
    """Loss of each triplet and gradients of their sum, through autograd."""
    leaves = [x.detach().requires_grad_() for x in (anchor, positive, negative)]
    loss = F.triplet_margin_loss(*leaves, reduction="none")
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


def cross_entropy_and_gradient(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each sample and gradient of their sum, through autograd."""
    logits = logits.detach().requires_grad_()
    loss = F.cross_entropy(logits, target, reduction="none")
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


def cw_and_gradient(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The margin as attack libraries write it, with one-hot masks, and the gradient of the sum through autograd."""
    logits = logits.detach().requires_grad_()
    hit = F.one_hot(target, logits.shape[1])
    own = (hit * logits).sum(1)
    rival = ((1 - hit) * logits - hit * 1e4).amax(1)
    loss = rival - own
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


def dlr_and_gradient(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The difference of logits ratio as AutoAttack writes it, by a sort of each row, and its gradient."""
    logits = logits.detach().requires_grad_()
    ranked, order = logits.sort(dim=1)
    first = (order[:, -1] == target).float()
    own = logits[torch.arange(logits.shape[0], device=logits.device), target]
    gap = own - ranked[:, -2] * first - ranked[:, -1] * (1.0 - first)
    loss = -gap / (ranked[:, -1] - ranked[:, -3] + 1e-12)
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]


def targeted_dlr_and_gradient(logits: Tensor, target: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """The targeted ratio as AutoAttack writes it, and its gradient."""
    logits = logits.detach().requires_grad_()
    ranked, _ = logits.sort(dim=1)
    rows = torch.arange(logits.shape[0], device=logits.device)
    spread = ranked[:, -1] - 0.5 * (ranked[:, -3] + ranked[:, -4]) + 1e-12
    loss = -(logits[rows, truth] - logits[rows, target]) / spread
    return loss.detach(), torch.autograd.grad(loss.sum(), logits)[0]
