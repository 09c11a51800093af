"""Interpolation between the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, per_sample


def mix(x: Tensor, lam: float | Tensor, permutation: Tensor) -> Tensor:
    """See :func:`fastadv.mix`."""
    point = accumulate(x)
    own = per_sample(lam, point)
    index, valid = _within(permutation, x)
    return torch.where(valid, own * point + (1 - own) * point[index], torch.nan).to(x.dtype)


def mix_backward(grad: Tensor, lam: float | Tensor, permutation: Tensor) -> Tensor:
    """Gradient of :func:`mix` w.r.t. ``x``, given that w.r.t. its result."""
    incoming = accumulate(grad)
    own = per_sample(lam, incoming)
    index, valid = _within(permutation, grad)
    return (own * incoming).index_add(0, index, torch.where(valid, (1 - own) * incoming, 0)).to(grad.dtype)


def _within(permutation: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The indices, 0 in the place of one out of range, and which are in range, [N, 1, ...]."""
    valid = (permutation >= 0) & (permutation < x.shape[0])
    return torch.where(valid, permutation, 0), valid.view(-1, *[1] * (x.dim() - 1))
