"""Losses on distances between features."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, reduce


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Tensor = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See :func:`fastadv.triplet_margin_loss`."""
    anchor, positive, negative = accumulate(anchor), accumulate(positive), accumulate(negative)
    near = (anchor - positive + eps).norm(p, dim=-1)
    far = (anchor - negative + eps).norm(p, dim=-1)
    if swap:
        far = torch.minimum(far, (positive - negative + eps).norm(p, dim=-1))
    loss = (margin + near - far).clamp_min(0)
    return loss if reduction == "none" else reduce(loss.flatten(), None, reduction)


def triplet_margin_loss_value_and_grad(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Tensor = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss [N] and its gradients w.r.t. anchor, positive and negative, all [N, D]."""
    anchor, positive, negative = accumulate(anchor), accumulate(positive), accumulate(negative)
    near, near_slope = _norm(anchor - positive + eps, p)
    far, far_slope = _norm(anchor - negative + eps, p)
    gap = margin + near - far
    swap_slope = torch.zeros_like(far_slope)
    if swap:
        swapped, swap_slope = _norm(positive - negative + eps, p)
        gap = margin + near - torch.minimum(far, swapped)
        # The smaller distance takes the derivative; equal ones share it.
        share = (1 + torch.sign(swapped - far)) / 2
        far_slope, swap_slope = share[:, None] * far_slope, (1 - share)[:, None] * swap_slope
    # The hinge has a slope of one where it begins, and none where it is undefined.
    active = (gap >= 0).to(gap.dtype)[:, None]
    return (
        gap.clamp_min(0),
        active * (near_slope - far_slope),
        active * (-near_slope - swap_slope),
        active * (far_slope + swap_slope),
    )


def _norm(difference: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The p-norm of each row [N], and its derivative w.r.t. the row [N, D]; zero where the norm or a coordinate is."""
    norm = difference.norm(p, dim=-1)
    if p == 0:
        return norm, torch.zeros_like(difference)
    size, length = difference.abs(), norm[:, None]
    if p == math.inf:
        largest = ~(size < length)
        return norm, difference.sign() * largest / largest.sum(-1, keepdim=True)
    slope = difference.sign() * (size / length).pow(p - 1)
    return norm, slope.masked_fill((difference == 0) | (length == 0), 0)
