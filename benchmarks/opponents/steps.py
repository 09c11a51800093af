"""Steps and projections as people write them."""

from __future__ import annotations

import math

import torch
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


def project_l2(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """Ball, then box, as attack libraries write it."""
    delta = x - x0
    factor = torch.clamp(eps / torch.norm(delta.reshape(x.shape[0], -1), p=2, dim=1), max=1)
    return torch.clamp(x0 + delta * factor.view(-1, 1, 1, 1), 0, 1)


def project_l2_renorm(x: Tensor, x0: Tensor, eps: float) -> Tensor:
    """The same with PyTorch's own projection onto a ball."""
    return torch.clamp(x0 + torch.renorm(x - x0, p=2, dim=0, maxnorm=eps), 0, 1)


def random_start_linf(x0: Tensor, eps: float) -> Tensor:
    """A uniform start as torchattacks draws it, from the global random state."""
    return torch.clamp(x0 + torch.empty_like(x0).uniform_(-eps, eps), min=0, max=1)


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


def mix(x: Tensor, lam: float | Tensor, permutation: Tensor) -> Tensor:
    """mixup as training loops write it."""
    return lam * x + (1 - lam) * x[permutation]


def mix_lerp(x: Tensor, lam: float, permutation: Tensor) -> Tensor:
    """The same with PyTorch's own interpolation."""
    return torch.lerp(x[permutation], x, lam)


def svgd_step(
    particles: Tensor, score: Tensor, x0: Tensor, eps: float, step_size: float, *, balanced: bool = False
) -> Tensor:
    """A projected SVGD step with a per-image kernel and the median bandwidth, sign update, linf ball.

    balanced: bring the attraction to the root mean square of the repulsion, image by image.

    Half precision is computed in float32, since cdist has no other.
    """
    images, count = particles.shape[:2]
    flat, flat_score = particles.flatten(2).float(), score.flatten(2).float()
    squared = torch.cdist(flat, flat).square()
    rows, columns = torch.triu_indices(count, count, 1, device=flat.device)
    median = squared[:, rows, columns].median(dim=1).values
    variance = (median / (2 * math.log(count + 1))).view(images, 1, 1)
    kernel = torch.exp(-squared / (2 * variance))
    attraction = torch.bmm(kernel, flat_score)
    repulsion = (kernel.sum(2, keepdim=True) * flat - torch.bmm(kernel, flat)) / variance
    if balanced:
        pull, push = (term.square().mean((1, 2), keepdim=True) for term in (attraction, repulsion))
        attraction = attraction * (push / pull).sqrt()
    phi = ((attraction + repulsion) / count).view_as(particles)
    moved = particles + step_size * phi.sign().to(particles.dtype)
    centre = x0.unsqueeze(1)
    return torch.clamp(centre + torch.clamp(moved - centre, -eps, eps), 0, 1)


def project_hyperplane(x: Tensor, normal: Tensor, offset: Tensor, norm: str) -> Tensor:
    """The nearest point of a plane in the unit box as FAB's code finds it: rooms sorted, then a closed form.

    linf and l2: every coordinate moves by ``min(t rate, room)``. l1: the largest weights first.
    """
    flat, weight = x.flatten(1), normal.flatten(1)
    gap = (weight * flat).sum(1) - offset
    weight, gap = weight * gap.sign()[:, None], gap.abs()[:, None]
    size, room = weight.abs(), torch.where(weight > 0, flat, 1 - flat)
    if norm == "l1":
        size, order = size.sort(1, descending=True)
        gains = size * room.gather(1, order)
        missing = (gap - (gains.cumsum(1) - gains)).clamp(min=0)
        moved = torch.minimum(missing / size.clamp(min=1e-12), room.gather(1, order))
        move = torch.zeros_like(moved).scatter(1, order, moved)
    else:
        rate = size if norm == "l2" else (size > 0).to(size.dtype)
        ends, order = (room / rate.clamp(min=1e-12)).sort(1)
        gains, slopes = (size * room).gather(1, order), (size * rate).gather(1, order)
        done, left = gains.cumsum(1) - gains, slopes.flip(1).cumsum(1).flip(1)
        last = (done + ends * left < gap).sum(1, keepdim=True).clamp(max=ends.shape[1] - 1)
        move = torch.minimum((gap - done.gather(1, last)) / left.gather(1, last) * rate, room)
    return (flat - weight.sign() * move).view_as(x)


def square_propose_linf(x: Tensor, x0: Tensor, eps: float, side: int) -> Tensor:
    """A proposal of Square Attack as published: one window and its colours for the whole batch, drawn on the host."""
    channels, height, width = x.shape[1:]
    top, left = (int(torch.randint(room - side, [])) for room in (height, width))
    colours = 1 - 2 * torch.randint(2, (channels, 1, 1), device=x.device)
    moved = x.clone()
    moved[:, :, top : top + side, left : left + side] += 2 * eps * colours
    return torch.clamp(torch.minimum(torch.maximum(moved, x0 - eps), x0 + eps), 0, 1)


def square_propose_l2(x: Tensor, x0: Tensor, eps: float, tile: Tensor) -> Tensor:
    """The same in l2: a window of the perturbation becomes a bump of what it and a second window held.

    tile: the bump [side, side].
    """
    samples, channels, height, width = x.shape
    side = len(tile)
    first, second = (
        tuple(slice(start, start + side) for start in (int(torch.randint(room - side, [])) for room in (height, width)))
        for _ in range(2)
    )
    delta = x - x0
    both = torch.zeros(height, width, dtype=x.dtype, device=x.device)
    both[first] = both[second] = 1
    spent = (delta * both).square().sum((2, 3), keepdim=True)
    lacking = (eps**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
    old = delta[:, :, *first]
    colours = 1 - 2 * torch.randint(2, (samples, channels, 1, 1), device=x.device)
    turned = tile.T if torch.rand([]) < 0.5 else tile
    patch = colours * turned + old / (old.square().sum((2, 3), keepdim=True).sqrt() + 1e-12)
    patch = patch * (lacking / channels + spent).sqrt() / (patch.square().sum((2, 3), keepdim=True).sqrt() + 1e-12)
    delta[:, :, *second] = 0
    delta[:, :, *first] = patch
    return torch.clamp(x0 + eps * delta / delta.square().sum((1, 2, 3), keepdim=True).sqrt(), 0, 1)
