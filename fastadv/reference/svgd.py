"""One step of Stein variational gradient descent on the particles of each image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, per_sample, safe_norm
from fastadv.reference.ball import project
from fastadv.reference.step import ascent


def svgd_step(
    particles: Tensor,
    score: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    bandwidth: float | str = "median",
    update: str = "sign",
    score_scale: float | str = 1.0,
) -> Tensor:
    """See :func:`fastadv.svgd_step`."""
    images, count = particles.shape[:2]
    centre = accumulate(x0)
    offsets = (accumulate(particles) - centre[:, None]).flatten(2)  # [N, n, D]
    attraction, repulsion = stein_terms(offsets, accumulate(score).flatten(2), bandwidth)
    phi = _scaled(attraction, repulsion, score_scale) + repulsion
    size = per_sample(step_size, phi)
    if isinstance(size, Tensor):
        size = size.expand(images, count, 1).reshape(-1, 1)
    phi = phi.flatten(0, 1)
    step = size * phi if update == "raw" else ascent(phi, size, "linf" if update == "sign" else "l2")
    moved = accumulate(particles).flatten(0, 1) + step.view(images * count, *x0.shape[1:])
    if isinstance(eps, Tensor):
        eps = eps.repeat_interleave(count)
    projected = project(moved, centre.repeat_interleave(count, 0), eps=eps, norm=norm, bounds=bounds)
    return torch.empty_like(particles).copy_(projected.view_as(particles))


def stein_terms(offsets: Tensor, score: Tensor, bandwidth: float | str) -> tuple[Tensor, Tensor]:
    """Attraction ``1/n sum_j k_ij score_j`` and repulsion ``1/n sum_j k_ij (x_i - x_j) / sigma**2``, both [N, n, D]."""
    count = offsets.shape[1]
    # Taken directly: by way of the Gram matrix, coincident particles would not be at distance zero.
    distance = torch.cdist(offsets, offsets, compute_mode="donot_use_mm_for_euclid_dist")
    precision = _inverse_variance(distance, bandwidth)
    kernel = torch.exp(-0.5 * distance.square() * precision)
    push = kernel * precision
    # Difference by difference: as a product of matrices, rounding would remain where nothing repels.
    repulsion = torch.zeros_like(offsets)
    for j in range(count):
        repulsion += push[:, :, j, None] * (offsets - offsets[:, j, None])
    return torch.bmm(kernel, score) / max(count, 1), repulsion / max(count, 1)


def _inverse_variance(distance: Tensor, bandwidth: float | str) -> Tensor:
    """1 / sigma**2 as [N, 1, 1]; zero, a flat kernel without repulsion, where the median distance is zero."""
    images, count, _ = distance.shape
    if not isinstance(bandwidth, str):
        return torch.full_like(distance[:, :1, :1], (1.0 / bandwidth) ** 2)
    if count < 2:
        return torch.zeros_like(distance[:, :1, :1])
    rows, columns = torch.triu_indices(count, count, 1, device=distance.device)
    median = distance[:, rows, columns].median(dim=1).values.view(images, 1, 1)
    return torch.where(median > 0, 2 * math.log(count + 1) / median.square(), 0.0)


def _scaled(attraction: Tensor, repulsion: Tensor, score_scale: float | str) -> Tensor:
    """The attraction times ``score_scale``; for "rms" brought to the repulsion's root mean square, image by image."""
    if not isinstance(score_scale, str):
        return score_scale * attraction
    pull, push = safe_norm(attraction), safe_norm(repulsion)
    # Finite, even where the scores are all but zero.
    scale = (push / pull).clamp(max=torch.finfo(pull.dtype).max)
    return attraction * torch.where((pull > 0) & (push > 0), scale, 1.0)
