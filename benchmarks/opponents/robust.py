"""Losses of a step of robust training and distillation as the methods' own codes write them.

x, y: images [N, ...] in [0, 1] and classes [N]; start: where the attack starts; progress: the share of training that is
done. Every forward of the published scripts is in its place, also where its term has weight zero, and the means are
over the batch. Attacks ask autograd for the gradient by the images alone while parameters keep requires_grad.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opponents import loops, losses

EPS, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10


def pgd_at(student: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """Training on PGD's images."""
    return F.cross_entropy(student(pgd(student, x, y, start)), y)


def pgd(student: nn.Module, x: Tensor, y: Tensor, start: Tensor, gradient: loops.Gradient = loops.by_images) -> Tensor:
    """PGD's images, found in eval mode."""
    student.eval()
    adversarial = _fooling(student, x, y, start, gradient)
    student.train()
    return adversarial


def trades(student: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """TRADES; the clean answer that the attack compares with is computed once."""
    student.eval()
    with torch.no_grad():
        clean = student(x)
    adversarial = _leaving(student, clean, x, start)
    student.train()
    clean = student(x)
    return F.cross_entropy(clean, y) + 6.0 * losses.kl_distill(student(adversarial), clean, 1.0)


def ard(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, alpha: float = 1.0) -> Tensor:
    """ARD, attacked in train mode; clean images too, whose term has weight zero."""
    adversarial = _fooling(student, x, y, start)
    of_student, clean = student(adversarial), student(x)
    with torch.no_grad():
        of_teacher = teacher(x)
    return alpha * losses.kl_distill(of_student, of_teacher, 30.0) + (1 - alpha) * F.cross_entropy(clean, y)


def rslad(student: nn.Module, teacher: nn.Module, x: Tensor, start: Tensor) -> Tensor:
    """RSLAD, five sixths of it on adversarial images."""
    with torch.no_grad():
        of_teacher = teacher(x)
    student.eval()
    adversarial = _leaving(student, of_teacher, x, start)
    student.train()
    robust = losses.kl_distill(student(adversarial), of_teacher, 1.0)
    return 5 / 6 * robust + 1 / 6 * losses.kl_distill(student(x), of_teacher, 1.0)


def apart(
    student: nn.Module, teacher: nn.Module, x: Tensor, start: Tensor, gradient: loops.Gradient = loops.by_images
) -> Tensor:
    """AdaAD's images, on which the networks differ most, with the gradient through both."""
    student.eval()

    def difference(moved: Tensor) -> Tensor:
        return losses.kl_distill(student(moved), teacher(moved), 1.0, "sum")

    adversarial = loops.pgd_linf_from(start, x, difference, EPS, STEP_SIZE, STEPS, gradient)
    student.train()
    return adversarial


def adaad(student: nn.Module, teacher: nn.Module, x: Tensor, adversarial: Tensor, *, alpha: float = 1.0) -> Tensor:
    """AdaAD on the images of :func:`apart`; clean images too, whose term has weight zero."""
    of_student, clean = student(adversarial), student(x)
    with torch.no_grad():
        of_teacher, taught = teacher(adversarial), teacher(x)
    robust = losses.kl_distill(of_student, of_teacher, 1.0)
    return alpha * robust + (1 - alpha) * losses.kl_distill(clean, taught, 1.0)


def igdm(
    student: nn.Module, teacher: nn.Module, x: Tensor, adversarial: Tensor, progress: float, *, alpha: float = 20.0
) -> Tensor:
    """AdaAD with indirect gradient matching on the same images."""
    delta = adversarial - x
    with torch.no_grad():
        teacher_plus, teacher_minus = teacher(x + delta), teacher(x - delta)
    matching = losses.igdm_loss(student(x + delta), student(x - delta), teacher_plus, teacher_minus)
    return adaad(student, teacher, x, adversarial) + alpha * progress * matching


def saad(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, start: Tensor, progress: float, *, alpha: float = 20.0
) -> Tensor:
    """SAAD, its attack on the teacher's true class to first order; the student sees the clean images too."""
    leaf = x.detach().requires_grad_()
    clean = teacher(leaf)
    (slope,) = torch.autograd.grad(clean.gather(1, y.unsqueeze(1)).sum(), leaf)
    clean, true = clean.detach(), F.one_hot(y, clean.shape[1]).to(x)
    student.eval()

    def difference(moved: Tensor) -> Tensor:
        rise = ((moved - x) * slope).flatten(1).sum(1, keepdim=True)
        return losses.kl_distill(student(moved), clean + rise * true, 1.0, "sum")

    adversarial = loops.pgd_linf_from(start, x, difference, EPS, STEP_SIZE, STEPS)
    student.train()
    student(x)
    of_student, behind = student(adversarial), student(2 * x - adversarial)
    with torch.no_grad():
        of_teacher, teacher_behind = teacher(adversarial), teacher(2 * x - adversarial)
        log_p = F.log_softmax(of_teacher, dim=1)
        entropy = -(log_p.exp() * log_p).sum(1)
        weight = 5.0 * (entropy - entropy.min())
    matching = losses.igdm_loss(of_student, behind, of_teacher, teacher_behind, "none")
    return _weighted(of_student, of_teacher, weight) + alpha * progress * (weight * matching).mean()


def iad(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, start: Tensor, progress: float, *, alpha: float = 1.0
) -> Tensor:
    """IAD-I, attacked in train mode."""
    adversarial = _fooling(student, x, y, start)
    of_student, clean = student(adversarial), student(x)
    with torch.no_grad():
        taught, of_teacher = teacher(x), teacher(adversarial)
    loss = losses.kl_distill(of_student, taught, 1.0)
    if progress >= 60 / 200:
        loss = loss + _weighted(of_student, clean, 1 - _trust(of_teacher, y))
    return alpha * loss + (1 - alpha) * F.cross_entropy(clean, y)


def iad_ii(
    student: nn.Module, teacher: nn.Module, standard: nn.Module, x: Tensor, y: Tensor, start: Tensor, progress: float
) -> Tensor:
    """IAD-II with its second teacher, attacked in train mode."""
    adversarial = _fooling(student, x, y, start)
    of_student, clean = student(adversarial), student(x)
    with torch.no_grad():
        of_teacher, of_standard = teacher(adversarial), standard(adversarial)
    trust = _trust(of_teacher, y) if progress >= 40 / 200 else torch.ones_like(y, dtype=x.dtype)
    guided = _weighted(of_student, of_teacher, trust) + _weighted(of_student, clean, 1 - trust)
    plain = losses.kl_distill(of_student, of_standard, 1.0)
    return 0.25 * F.cross_entropy(of_student, y) + 0.5 * guided + 0.25 * plain


def ada_iad(
    student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, adversarial: Tensor, progress: float
) -> Tensor:
    """AdaIAD on the images of :func:`apart`."""
    of_student, clean = student(adversarial), student(x)
    with torch.no_grad():
        of_teacher = teacher(adversarial)
    loss = losses.kl_distill(of_student, of_teacher, 30.0)
    if progress >= 60 / 200:
        loss = loss + _weighted(of_student, clean, 1 - _trust(of_teacher, y))
    return loss


def _fooling(
    student: nn.Module, x: Tensor, y: Tensor, start: Tensor, gradient: loops.Gradient = loops.by_images
) -> Tensor:
    """The images of a high cross-entropy, in the mode that the student is in."""

    def error(moved: Tensor) -> Tensor:
        return F.cross_entropy(student(moved), y)

    return loops.pgd_linf_from(start, x, error, EPS, STEP_SIZE, STEPS, gradient)


def _leaving(student: nn.Module, answer: Tensor, x: Tensor, start: Tensor) -> Tensor:
    """The images on which the student is furthest from the logits ``answer``."""
    return loops.pgd_linf_from(
        start, x, lambda moved: losses.kl_distill(student(moved), answer, 1.0, "sum"), EPS, STEP_SIZE, STEPS
    )


def _weighted(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    return (weight * losses.kl_distill(student, teacher, 1.0, "none")).mean()


def _trust(teacher: Tensor, y: Tensor) -> Tensor:
    """The teacher's probability of the right class, [N]."""
    return F.softmax(teacher, dim=1).gather(1, y.unsqueeze(1)).squeeze(1).pow(0.1)
