"""The loss of soft targets and labels: soft_targets."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.ops.divergence import kd_loss, kl_distill


def soft_targets(student: Tensor, teacher: Tensor, batch: Batch, *, temperature: float, alpha: float) -> Tensor:
    """Return ``(1 - alpha) CE(S, y) + alpha T^2 KL(p_T || p_S)`` of logits [N, C], the mean over the batch."""
    if batch.hard:
        return kd_loss(student, teacher, batch.y, temperature=temperature, alpha=alpha)
    apart = kl_distill(student, teacher, temperature=temperature)
    return (1 - alpha) * batch.cross_entropy(student) + alpha * apart
