"""Losses on logits as people write them, and their gradients through autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_distill(student: Tensor, teacher: Tensor, temperature: float, reduction: str = "batchmean") -> Tensor:
    """Hinton's distillation loss as RepDistiller and most training loops write it; "none" gives [N]."""
    log_q = F.log_softmax(student / temperature, dim=1)
    p = F.softmax(teacher / temperature, dim=1)
    return _by_sample(F.kl_div(log_q, p, reduction=reduction)) * temperature**2


def js_distill(student: Tensor, teacher: Tensor, temperature: float, reduction: str = "batchmean") -> Tensor:
    """The Jensen-Shannon divergence by two calls of kl_div, as training loops write it; "none" gives [N]."""
    p, q = F.softmax(teacher / temperature, dim=1), F.softmax(student / temperature, dim=1)
    log_middle = ((p + q) / 2).log()
    from_teacher = _by_sample(F.kl_div(log_middle, p, reduction=reduction))
    return (from_teacher + _by_sample(F.kl_div(log_middle, q, reduction=reduction))) / 2 * temperature**2


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
    best_other = ((1 - hit) * logits - hit * 1e4).amax(1)
    loss = best_other - own
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
