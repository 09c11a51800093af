"""What an attack ascends: attack_loss. Kernel and cost: :mod:`fastadv.kernels.rows`."""

from __future__ import annotations

from torch import Tensor

from fastadv.kernels import rows

_LOSSES = (rows.CROSS_ENTROPY.value, rows.KL.value)


def attack_loss(
    logits: Tensor,
    target: Tensor | None,
    reference: Tensor | None,
    kind: int,
    weight: Tensor | None,
    scale: float,
    reduce: bool,
    grad: bool,
) -> tuple[Tensor, ...]:
    """Launcher of :func:`fastadv.attack_loss`."""
    return rows.logit_loss(_LOSSES[kind], logits, reference, target, 1.0, 1.0, weight, scale, reduce, grad, False)[:2]
