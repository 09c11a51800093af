"""Attack loops as people write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opponents import steps as step

Loss = Callable[[Tensor], Tensor]
Rule = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[Tensor, Tensor], Tensor]


def by_images(loss: Tensor, x: Tensor) -> Tensor:
    """The gradient of ``loss`` by the images alone, though parameters require one too."""
    return torch.autograd.grad(loss, x)[0]


def climb(loss: Loss, start: Tensor, steps: int, rule: Rule, gradient: Gradient = by_images) -> Tensor:
    """``steps`` times ``rule(images, gradient of their loss)`` from ``start``, detached."""
    moved = start
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        moved = rule(moved.detach(), gradient(loss(moved), moved)).detach()
    return moved


def fgsm(network: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """FGSM as torchattacks writes it."""
    return climb(_error(network, y), x, 1, lambda moved, grad: torch.clamp(moved + eps * grad.sign(), min=0, max=1))


def pgd_linf(network: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    """linf PGD from the clean images as torchattacks writes it."""
    return pgd_linf_from(x, x, _error(network, y), eps, step_size, steps)


def pgd_linf_from(
    start: Tensor, x: Tensor, loss: Loss, eps: float, step_size: float, steps: int, gradient: Gradient = by_images
) -> Tensor:
    """The same from ``start``, of any loss."""

    def rule(moved: Tensor, grad: Tensor) -> Tensor:
        return step.pgd_step_linf(moved, grad, x, eps, step_size)

    return climb(loss, start, steps, rule, gradient)


def pgd_l2(network: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    """l2 PGD from the clean images; the distance is kept from zero, where torchattacks starts at random."""

    def rule(moved: Tensor, grad: Tensor) -> Tensor:
        norms = torch.norm(grad.flatten(1), p=2, dim=1) + 1e-10
        return step.project_l2(moved + step_size * (grad / norms.view(-1, 1, 1, 1)), x, eps)

    return climb(_error(network, y), x, steps, rule)


def mi_fgsm(network: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    """MI-FGSM as torchattacks writes it."""
    momentum = torch.zeros_like(x)

    def rule(moved: Tensor, grad: Tensor) -> Tensor:
        nonlocal momentum
        moved, momentum = step.momentum_step(moved, grad, momentum, x, eps, step_size, 1.0)
        return moved

    return climb(_error(network, y), x, steps, rule)


def svgd(network: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int, particles: int) -> Tensor:
    """Particles from a uniform start, moved by SVGD with a kernel an image; [N, particles, ...]."""
    noise = torch.empty(x.shape[0], particles, *x.shape[1:], dtype=x.dtype, device=x.device).uniform_(-eps, eps)
    return svgd_from(torch.clamp(x.unsqueeze(1) + noise, 0, 1), network, x, y, eps, step_size, steps)


def svgd_from(
    start: Tensor,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    step_size: float,
    steps: int,
    *,
    balanced: bool = False,
    gradient: Gradient = by_images,
) -> Tensor:
    """The same from ``start`` [N, particles, ...]; balanced: see :func:`benchmarks.opponents.steps.svgd_step`."""
    shape, classes = start.shape, y.repeat_interleave(start.shape[1])

    def loss(rows: Tensor) -> Tensor:
        return F.cross_entropy(network(rows), classes, reduction="sum")

    def rule(rows: Tensor, score: Tensor) -> Tensor:
        moved = step.svgd_step(rows.view(shape), score.view(shape), x, eps, step_size, balanced=balanced)
        return moved.flatten(0, 1)

    return climb(loss, start.flatten(0, 1), steps, rule, gradient).view(shape)


def bss(network: nn.Module, x: Tensor, target: Tensor, steps: int, step_size: float = 0.3) -> Tensor:
    """Boundary supporting samples as the released code finds them, until every image has left its class."""
    moved, base = x, None
    active = torch.ones_like(target, dtype=torch.bool)
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        logits = network(moved)
        predicted = logits.argmax(1)
        base = predicted if base is None else base
        active = active & (predicted == base) & (base != target)
        if not active.any():
            break
        gap = logits.gather(1, base[:, None]) - logits.gather(1, target[:, None])
        grad = torch.autograd.grad(-gap.sum(), moved)[0]
        moved = step.bss_step(moved.detach(), grad, gap.detach().squeeze(1), active, step_size)
    return moved.detach()


def vat(network: nn.Module, x: Tensor, eps: float, xi: float) -> Tensor:
    """The virtual adversarial perturbation by one power iteration, as its PyTorch ports write it, but with a sum.

    Their mean over the batch makes the gradient so small that the 1e-8 beside its norm shortens the perturbation.
    """

    def unit(d: Tensor) -> Tensor:
        return d / (torch.norm(d.flatten(1), dim=1).view(-1, 1, 1, 1) + 1e-8)

    with torch.no_grad():
        clean = F.softmax(network(x), dim=1)
    d = unit(torch.randn_like(x)).requires_grad_()
    divergence = F.kl_div(F.log_softmax(network(x + xi * d), dim=1), clean, reduction="sum")
    return x + eps * unit(torch.autograd.grad(divergence, d)[0])


def apgd(network: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """linf Auto-PGD from the clean images, written from its paper's algorithm with masked assignment."""
    checkpoints, p, gap = [0], 0.22, 0.22
    while p < 1:
        checkpoints.append(math.ceil(p * steps))
        gap = max(gap - 0.03, 0.06)
        p += gap
    size = torch.full((x.shape[0], 1, 1, 1), 2 * eps, dtype=x.dtype, device=x.device)
    moved, before = x, x
    value, grad = _value_and_grad(network, moved, y)
    best, best_value, best_grad = moved.clone(), value.clone(), grad.clone()
    rises, checked, halved = torch.zeros_like(value), value.clone(), torch.zeros_like(y, dtype=torch.bool)
    for k in range(steps):
        if k in checkpoints[1:]:
            since = k - checkpoints[checkpoints.index(k) - 1]
            halves = (rises < 0.75 * since) | ((best_value == checked) & ~halved)
            size[halves] /= 2
            moved, grad = moved.clone(), grad.clone()
            moved[halves], grad[halves] = best[halves], best_grad[halves]
            rises, checked, halved = torch.zeros_like(rises), best_value.clone(), halves
        z = torch.clamp(torch.min(torch.max(moved + size * grad.sign(), x - eps), x + eps), 0, 1)
        if k:
            z = moved + 0.75 * (z - moved) + 0.25 * (moved - before)
            z = torch.clamp(torch.min(torch.max(z, x - eps), x + eps), 0, 1)
        before, moved, previous = moved, z, value
        value, grad = _value_and_grad(network, moved, y)
        rises = rises + (value > previous)
        better = value > best_value
        best[better], best_grad[better], best_value[better] = moved[better], grad[better], value[better]
    return best


def _error(network: nn.Module, y: Tensor) -> Loss:
    return lambda x: F.cross_entropy(network(x), y)


def _value_and_grad(network: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = F.cross_entropy(network(x), y, reduction="none")
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]
