"""What an attack ascends: one value a sample."""

from __future__ import annotations

from torch import Tensor

from fastadv.reference.divergence import (
    cross_entropy,
    cross_entropy_value_and_grad,
    kl_distill,
    kl_distill_value_and_grad,
)


def attack_loss(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> Tensor:
    """See :func:`fastadv.attack_loss`."""
    sign = -1 if targeted else 1
    if kind == "kl":
        assert reference is not None
        return sign * kl_distill(logits, reference, reduction="none")
    assert target is not None
    return sign * cross_entropy(logits, target)


def attack_loss_value_and_grad(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss [N] and its gradient by the logits [N, C]."""
    sign = -1 if targeted else 1
    if kind == "kl":
        assert reference is not None
        loss, grad, _ = kl_distill_value_and_grad(logits, reference)
    else:
        assert target is not None
        loss, grad = cross_entropy_value_and_grad(logits, target)
    return sign * loss, sign * grad
