"""Precision, per-sample shapes and safe norms: what the product computes with everywhere.

The oracle, :mod:`fastadv.reference`, has its own, so that one wrong line cannot be wrong in both.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which sums over ``x`` are taken: float64 for float64, else float32."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def accumulate(x: Tensor) -> Tensor:
    """Return ``x`` in its :func:`accumulation_dtype`."""
    return x if x.dtype is torch.float64 else x.float()


def sample_dims(x: Tensor) -> tuple[int, ...]:
    """Return all dimensions of ``x`` [N, ...] but the first."""
    return tuple(range(1, x.dim()))


def per_sample(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a float as it is, a tensor [N] as [N, 1, ...] in the dtype of ``x`` [N, ...], to broadcast against it."""
    return value.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) if isinstance(value, Tensor) else value


def largest_magnitude(x: Tensor) -> Tensor:
    """Return the largest ``|x|`` of each sample of ``x`` [N, ...] as [N, 1, ...]; 1 where it is zero or not finite.

    Sums over a sample divided by it neither overflow nor underflow.
    """
    largest = x.abs().amax(sample_dims(x), keepdim=True)
    return torch.where((largest > 0) & largest.isfinite(), largest, 1.0)


def safe_norm(x: Tensor) -> Tensor:
    """Return the l2 norm of each sample of ``x`` [N, ...] as [N, 1, ...], without overflow or underflow of squares."""
    if x[:1].numel() == 0:
        return x.new_zeros([x.shape[0], *[1] * (x.dim() - 1)])
    scale = largest_magnitude(x)
    return scale * (x / scale).square().sum(sample_dims(x), keepdim=True).sqrt()
