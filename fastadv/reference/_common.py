"""Common to the reference ops: accumulation precision, per-sample arguments, reductions."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulate(x: Tensor) -> Tensor:
    """``x`` in the precision that sums are taken in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def per_sample(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A float as it is; a tensor [N] or one that broadcasts, made to broadcast against ``x`` [N, ...], in its dtype."""
    if not isinstance(value, Tensor):
        return value
    return value.to(x.dtype) if value.dim() > 1 else value.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def masked(x: Tensor, mask: Tensor | None, elsewhere: Tensor | float) -> Tensor:
    """``x`` where ``mask`` is not zero, and ``elsewhere`` where it is."""
    return x if mask is None else torch.where(mask != 0, x, elsewhere)


def sample_dims(x: Tensor) -> tuple[int, ...]:
    """All dimensions of ``x`` [N, ...] but the first."""
    return tuple(range(1, x.dim()))


def safe_norm(x: Tensor) -> Tensor:
    """Per-sample l2 norm [N, 1, ...] that neither overflows nor underflows: scaled by the largest magnitude."""
    if x[0:1].numel() == 0:
        return x.new_zeros([x.shape[0], *[1] * (x.dim() - 1)])
    scale = divisor(x)
    return scale * (x / scale).square().sum(sample_dims(x), keepdim=True).sqrt()


def divisor(x: Tensor) -> Tensor:
    """Divisor [N, 1, ...] of each sample of ``x`` under which sums over it neither overflow nor underflow."""
    largest = x.abs().amax(sample_dims(x), keepdim=True)
    return torch.where((largest > 0) & largest.isfinite(), largest, 1.0)


def reduce(loss: Tensor, weight: Tensor | None, reduction: str, *, mean_over: int = 1) -> Tensor:
    """Weighted ``loss`` [N] by ``reduction``; "mean" divides by ``N * mean_over``."""
    if weight is not None:
        loss = loss * weight.to(loss.dtype)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.sum() / (loss.shape[0] * (mean_over if reduction == "mean" else 1))
