"""Distillation losses between the softmax rows of a student and a teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from fastadv.reference._common import accumulate, reduce


def kl_distill(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    """See :func:`fastadv.kl_distill`."""
    loss = temperature**2 * divergence(log_softmax(teacher, temperature), log_softmax(student, temperature))
    return reduce(loss, weight, reduction, mean_over=student.shape[1])


def kl_distill_value_and_grad(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. the student's and the teacher's logits, both [N, C]."""
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    p, kl = log_p.exp(), divergence(log_p, log_q)
    log_ratio = torch.where(p == 0, 0.0, log_p - log_q - kl[:, None])
    return temperature**2 * kl, temperature * (log_q.exp() - p), temperature * p * log_ratio


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """See :func:`fastadv.kd_loss`."""
    soft = kl_distill(student, teacher, temperature=temperature, reduction="none")
    return reduce((1 - alpha) * cross_entropy(student, target) + alpha * soft, weight, reduction)


def kd_loss_value_and_grad(
    student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 4.0, alpha: float = 0.9
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. the student's and the teacher's logits, both [N, C]."""
    hard, hard_grad = cross_entropy_value_and_grad(student, target)
    soft, soft_grad, teacher_grad = kl_distill_value_and_grad(student, teacher, temperature=temperature)
    return (1 - alpha) * hard + alpha * soft, (1 - alpha) * hard_grad + alpha * soft_grad, alpha * teacher_grad


def js_distill(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    """See :func:`fastadv.js_distill`."""
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    log_m = _log_mean(log_p, log_q)
    loss = temperature**2 * (divergence(log_p, log_m) + divergence(log_q, log_m)) / 2
    return reduce(loss, weight, reduction, mean_over=student.shape[1])


def js_distill_value_and_grad(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. the student's and the teacher's logits, both [N, C]."""
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    log_m = _log_mean(log_p, log_q)
    halves, grads = [], []
    for log_own in (log_q, log_p):
        own = log_own.exp()
        log_ratio = torch.where(own == 0, 0.0, log_own - log_m) / 2
        mean = (own * log_ratio).sum(1)
        halves.append(mean)
        grads.append(temperature * own * (log_ratio - mean[:, None]))
    return temperature**2 * (halves[0] + halves[1]), grads[0], grads[1]


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """See :func:`fastadv.dkd_loss`."""
    valid, index = classes(student, target)
    student_odds, log_q = target_and_others(student, index, temperature)
    teacher_odds, log_p = target_and_others(teacher, index, temperature)
    of_target = _binary_divergence(teacher_odds, student_odds)
    loss = temperature**2 * (alpha * of_target + beta * divergence(log_p, log_q))
    return reduce(torch.where(valid, loss, torch.nan), weight, reduction)


def dkd_loss_value_and_grad(
    student: Tensor, teacher: Tensor, target: Tensor, *, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. the student's and the teacher's logits, both [N, C]."""
    valid, index = classes(student, target)
    student_odds, log_q = target_and_others(student, index, temperature)
    teacher_odds, log_p = target_and_others(teacher, index, temperature)
    hit = one_hot(index, student.shape[1])
    q, p = log_q.exp() - hit, log_p.exp() - hit
    others = divergence(log_p, log_q)
    loss = temperature**2 * (alpha * _binary_divergence(teacher_odds, student_odds) + beta * others)
    # A logit moves the odds of the target: its own by 1, another's by minus its share among the others.
    student_pull = alpha * (student_odds.sigmoid() - teacher_odds.sigmoid())
    teacher_pull = alpha * teacher_odds.sigmoid() * (-teacher_odds).sigmoid() * (teacher_odds - student_odds)
    log_ratio = torch.where(p == 0, 0.0, log_p - log_q - others[:, None])
    student_grad = temperature * (student_pull[:, None] * (hit - q) + beta * (q - p))
    teacher_grad = temperature * (teacher_pull[:, None] * (hit - p) + beta * p * log_ratio)
    bad = ~valid[:, None]
    return (
        torch.where(valid, loss, torch.nan),
        student_grad.masked_fill(bad, torch.nan),
        teacher_grad.masked_fill(bad, torch.nan),
    )


def _log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    return torch.logaddexp(log_p, log_q) - math.log(2)


def target_and_others(logits: Tensor, index: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-odds of the target class [N], and the log-softmax of the other classes [N, C], 0 at the target."""
    hit = one_hot(index, logits.shape[1]).bool()
    others = accumulate(logits).masked_fill(hit, -math.inf)
    # Logits far from zero would take the digits of what is left of them; of -inf alone there is no largest.
    largest = others.detach().amax(1, keepdim=True)
    largest = torch.where(largest == -math.inf, 0.0, largest)
    scaled = (others - largest) / temperature
    total = scaled.logsumexp(1, keepdim=True)
    own = (accumulate(logits).gather(1, index[:, None]) - largest) / temperature
    log_q = torch.where(others == -math.inf, -math.inf, scaled - total).masked_fill(hit, 0)
    return (own - total).squeeze(1), log_q


def _binary_divergence(p_odds: Tensor, q_odds: Tensor) -> Tensor:
    """KL between two Bernoulli distributions, by their log-odds."""
    hit = p_odds.sigmoid() * (logsigmoid(p_odds) - logsigmoid(q_odds))
    return hit + (-p_odds).sigmoid() * (logsigmoid(-p_odds) - logsigmoid(-q_odds))


def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) over the classes, in the accumulation precision."""
    return torch.log_softmax(accumulate(logits) / temperature, dim=1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row [N]; a class with p = 0 adds nothing, whatever q is."""
    p = log_p.exp()
    return torch.where(p == 0, 0.0, p * (log_p - log_q)).sum(1)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each row [N]; NaN where the target is no class."""
    valid, index = classes(logits, target)
    loss = -log_softmax(logits).gather(1, index[:, None]).squeeze(1)
    return torch.where(valid, loss, torch.nan)


def cross_entropy_value_and_grad(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row [N] and its gradient w.r.t. the logits [N, C]; NaN where the target is no class."""
    valid, index = classes(logits, target)
    grad = log_softmax(logits).exp() - one_hot(index, logits.shape[1])
    return cross_entropy(logits, target), torch.where(valid[:, None], grad, torch.nan)


def classes(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mark which targets [N] are classes, and return them with 0 in the place of the others."""
    valid = (target >= 0) & (target < logits.shape[1])
    return valid, torch.where(valid, target, 0)
