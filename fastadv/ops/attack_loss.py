"""What an attack ascends, one value a sample: attack_loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.reference import attack_loss as reference

_KINDS = {"ce": 0, "kl": 1}


def attack_loss(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> Tensor:
    """The loss that an attack ascends, one value a sample [N]; negative where the attack is targeted.

    ========  =====================================================
    kind      value
    ========  =====================================================
    "ce"      ``CE(logits, target)``, the cross-entropy
    "kl"      ``KL(softmax(reference) || softmax(logits))``
    ========  =====================================================

    Args:
        logits: [N, C], float64, float32, bfloat16 or float16; differentiable.
        target: classes [N], int64, of "ce". On the CPU a value outside [0, C) is an error, on a device its loss is NaN.
        kind: "ce" or "kl".
        reference: logits [N, C] of "kl": the model's own clean ones, or a teacher's. No gradient is offered for them.
        targeted: change the sign, so that ascent moves towards the target or the reference.

    Returns:
        [N], float64 for float64 logits, else float32. Sum it, do not average it: a mean over a large batch underflows
        in low precision.

    Raises:
        TypeError: logits or reference are not floating-point tensors, target is not int64 or missing.
        ValueError: shapes or devices differ, target is out of range, unknown kind, reference missing or requiring grad.
    """
    inputs, arguments, sign = _arguments(logits, target, kind, reference, targeted)
    return loss.evaluate(_attack_loss, inputs, arguments, None, sign, False)


def attack_loss_value_and_grad(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`attack_loss` without autograd: ``(loss [N], gradient by logits [N, C])``.

    The gradient is that of the summed loss, float64 for float64 logits, else float32. Raises as :func:`attack_loss`.
    """
    inputs, arguments, sign = _arguments(logits, target, kind, reference, targeted)
    value, grad = loss.value_and_grad(_attack_loss, inputs, arguments, (True,), sign)
    return value, grad


def _arguments(
    logits: Tensor, target: Tensor | None, kind: str, reference: Tensor | None, targeted: bool
) -> tuple[tuple[Tensor], tuple[Tensor | None, Tensor | None, int], float]:
    checks.logits("logits", logits)
    code = checks.choice("kind", kind, _KINDS)
    if kind == "ce":
        if target is None:
            raise TypeError("target must be given for kind='ce'")
        checks.target(target, logits)
        target, reference = target.contiguous(), None
    else:
        if reference is None:
            raise TypeError("reference must be given for kind='kl'")
        checks.floating("reference", reference)
        checks.same("reference", reference, "logits", logits)
        checks.constant("reference", reference)
        dtype = torch.promote_types(logits.dtype, reference.dtype)
        target, logits, reference = None, logits.to(dtype), reference.to(dtype).contiguous()
    return (logits,), (target, reference, code), -1.0 if targeted else 1.0


def _attack_loss_reference(logits, target, ref, kind, *how):
    if target is not None:
        checks.target_values(target, logits.shape[1])
    name = next(name for name, code in _KINDS.items() if code == kind)
    value, *grads = reference.attack_loss_value_and_grad(logits, target, kind=name, reference=ref)
    return loss.finish(value, grads, *how)


_attack_loss = define(
    "attack_loss",
    family="attack_loss",
    fake=lambda logits, target, reference, kind, weight, scale, *how: loss.fake((logits,), *how),
    reference=_attack_loss_reference,
)
