"""The sampler of TALD's published code, kept for comparison, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import clean_images, count
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import gradient
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.numerics import per_sample, sample_dims
from fastadv.ops import checks

# The finite-difference radius of the published code.
XI = 10.0


def released_particles(
    model: Network | Sequence[Network],
    x: Tensor,
    *,
    eps: float | Tensor,
    particles: int,
    bandwidth: float | str = "median",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    xi: float = XI,
    check: bool | None = None,
) -> Tensor:
    """Return particles [N, n, ...] as the published TALD code computes them, ``clamp(x + r)`` with ``|r|_2 = eps``.

    For the M = N n rows of the batch, with random directions d_i, ``|d_i|_2 = 1``:

        ``A     = mean over all elements of (softmax(model(x + xi d)) - softmax(model(x)))^2``,  ``s_i = dA/dd_i``
        ``k_ij  = exp(-|d_i - d_j|^2 / h)``,  ``h = 1e-8 + 2 sigma^2``,  ``sigma = 10^(1-n)``
        ``phi_i = 1/M sum_j [ k_ij s_j + k_ij 2 (d_i - d_j) / h ]``,  ``r_i = eps phi_i / |phi_i|_2``

    The kernel runs over all rows of the batch, but at the default sigma its off-diagonal entries are exactly zero for
    n = 4, so no particle acts on another and r_i points along s_i: these are independent one-step perturbations. The
    directions d never move, so that more steps would repeat the first: there is one.

    The published code works on normalised pixels with xi = 10, eps = 5e-4 and a clamp to +-2.5. Here normalisation is
    the model's first layer and x are pixels, in which the same numbers mean 1/std (about 3.7 for CIFAR-100) times as
    much: multiply eps and xi by std to stay with the published lengths, and use ``bounds=None`` to clamp no tighter
    than it. Its very numbers come from attacking the network behind the normalisation, on normalised images, with
    ``bounds=(-2.5, 2.5)``.

    Args:
        model: one network, see :func:`fastadv.attacks.pgd`.
        x: clean images [N, ...], floating point.
        eps: l2 length of r in the units of x, a float or [N]; not negative.
        particles: n, how many an image.
        bandwidth: sigma as a float, or "median" (the default of svgd) for ``10^(1-n)``.
        bounds: (low, high) of the clamp, or None.
        seed, sample_ids: of the directions, see :func:`fastadv.attacks.pgd`.
        xi: length of the step at which A is measured.
        check: see :func:`fastadv.attacks.pgd`.

    Raises TypeError and ValueError as :func:`fastadv.attacks.svgd`.
    """
    networks = Networks(model, check)
    if networks.together:
        raise ValueError("model must be one network for variant 'released', got a sequence")
    x = clean_images(x, bounds, check).contiguous()
    checks.radius("eps", eps, x)
    low, high = checks.box(bounds)
    sigma = checks.number_or("bandwidth", bandwidth, "median")
    sigma = 10.0 ** (1 - count("particles", particles, 1)) if sigma is None else checks.positive("bandwidth", sigma)
    with no_trace(networks.members):
        with torch.no_grad():
            clean = _probabilities(networks, x)
        rows, target = repeat_rows(x, particles), repeat_rows(clean, particles)
        directions = random_directions(x, particles, Noise(seed, sample_ids)).requires_grad_()
        gap = (_probabilities(networks, rows + xi * directions) - target).square().mean()
        score = gradient(gap, directions, torch.ones_like(gap))
        phi = stein_direction(directions.detach().flatten(1), score.flatten(1), sigma).view_as(rows)
    moved = rows + per_sample(repeat_rows(eps, particles), rows) * unit(phi)
    return moved.clamp(low, high).unflatten(0, (x.shape[0], particles))


def random_directions(x: Tensor, particles: int, noise: Noise) -> Tensor:
    """Draw unit vectors [N * particles, ...] from uniform noise, as the published code does."""
    return unit(Ball(eps=0.5, bounds=None).random_rows(torch.zeros_like(x), particles, noise))


def unit(x: Tensor) -> Tensor:
    """Scale each row of ``x`` [M, ...] to l2 length 1 by way of its largest magnitude, with the published guards."""
    dims = sample_dims(x)
    x = x / (1e-12 + x.abs().amax(dims, keepdim=True))
    return x / (1e-6 + x.square().sum(dims, keepdim=True)).sqrt()


def stein_direction(directions: Tensor, score: Tensor, sigma: float) -> Tensor:
    """Return phi [M, D] for ``directions`` and ``score`` [M, D]: the kernel joins every row with every other."""
    h = 1e-8 + 2 * sigma**2
    # Taken directly: the Gram matrix's rounding is far larger than sigma.
    distance = torch.cdist(directions, directions, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = torch.exp(-distance.square() / h)
    # A row does not repel itself. With its own entry the two terms would have to cancel, which the products of autocast
    # and of TF32 do not: at this h what they leave is more than the score.
    others = kernel.clone().fill_diagonal_(0.0)
    repulsion = (others.sum(1, keepdim=True) * directions - others @ directions) * (2 / h)
    return (kernel @ score + repulsion) / directions.shape[0]


def _probabilities(networks: Networks, x: Tensor) -> Tensor:
    logits = networks.logits(x)
    return torch.softmax(logits if logits.dtype is torch.float64 else logits.float(), dim=1)
