"""The loss that an attack ascends, one value a sample: attack_loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.reference import attack_loss as reference

_KINDS = {"ce": 0, "kl": 1, "dlr": 2, "cw": 4, "log_odds": 5}
# What the schema calls "dlr" with targeted=True: not the other with its sign changed, but another formula.
_TARGETED_DLR = 3
# As many classes as the formula ranks; the others need one.
_LEAST_CLASSES = {_KINDS["dlr"]: 3, _TARGETED_DLR: 4, _KINDS["cw"]: 2, _KINDS["log_odds"]: 2}


def attack_loss(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> Tensor:
    """The loss that an attack ascends, one value a sample [N].

    ==========  =======================================================================
    kind        value, with logits z, and z_(1) >= z_(2) >= ... the same in order
    ==========  =======================================================================
    "ce"        ``CE(logits, target)``, the cross-entropy
    "log_odds"  ``logsumexp_{i != target} z_i - z_target``
    "kl"        ``KL(softmax(reference) || softmax(logits))``
    "cw"        ``max_{i != target} z_i - z_target``, the margin
    "dlr"       ``(max_{i != target} z_i - z_target) / (z_(1) - z_(3) + 1e-12)``
    ==========  =======================================================================

    ``CE = log(1 + exp(log_odds))`` rises with the log-odds v. Its gradient is that of v, the softmax over the other
    classes less the one-hot target, times ``1 / (1 + exp(-v))``. On a confident network this factor underflows while
    the gradient of v does not: an attack that takes only the direction of a sample's gradient ascends "ce" by
    "log_odds" at any scale of the logits. Value and gradient of "ce" are exact down to the smallest numbers of their
    dtype.

    A targeted attack ascends towards the target or the reference: the value is negative, and of "dlr" it is
    ``(z_target - z_reference) / (z_(1) - (z_(3) + z_(4)) / 2 + 1e-12)`` with the true classes as the reference.

    The gradient of "dlr" includes that of the denominator. Of equal logits the lower class ranks first. A row whose
    loss is NaN, as it is where a logit is, has NaN as its gradient.

    Args:
        logits: [N, C], float64, float32, bfloat16 or float16; differentiable. C is at least 2 for "cw" and
            "log_odds", 3 for "dlr", 4 for "dlr" where targeted.
        target: classes [N], int64, of all but "kl". On the CPU a value outside [0, C) is an error, on a device its loss
            is NaN.
        kind: "ce", "log_odds", "kl", "cw" or "dlr".
        reference: of "kl" logits [N, C], the model's own clean ones or a teacher's, for which no gradient is offered;
            of "dlr" where targeted the true classes [N], int64, of which the same holds as of target.
        targeted: ascend towards the target or the reference, not away from it.

    Returns:
        [N], float64 for float64 logits, else float32. Sum it, do not average it: a mean over a large batch underflows
        in low precision.

    Raises:
        TypeError: logits are not floating-point, target or reference is missing or not of the dtype that kind asks for,
            targeted is no bool.
        ValueError: shapes or devices differ, too few classes, target or reference is out of range or requires grad,
            true classes missing, unknown kind.

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", 2020, for "dlr"; Carlini, Wagner, "Towards evaluating the robustness of neural networks", 2017, for "cw".
    """
    dense = checks.logits_alike(("logits",), logits)
    inputs, arguments, optional, sign = _arguments(logits, target, kind, reference, targeted)
    return loss.evaluate(_attack_loss, inputs, arguments, (sign, False), optional, dense=dense)


def attack_loss_value_and_grad(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`attack_loss` without autograd: ``(loss [N], gradient w.r.t. logits [N, C])``.

    The gradient is that of the summed loss, float64 for float64 logits, else float32. Raises as :func:`attack_loss`.
    """
    dense = checks.logits_alike(("logits",), logits)
    inputs, arguments, optional, sign = _arguments(logits, target, kind, reference, targeted)
    value, grad = loss.value_and_grad(_attack_loss, inputs, arguments, (True,), optional, scale=sign, dense=dense)
    return value, grad


def _arguments(
    logits: Tensor, target: Tensor | None, kind: str, reference: Tensor | None, targeted: bool
) -> tuple[tuple[Tensor], tuple[Tensor | None, int], tuple[Tensor, ...], float]:
    """Return what :func:`loss.evaluate` takes: logits, target and kind, the reference if any; and the scale."""
    code = checks.choice("kind", kind, _KINDS)
    sign = -1.0 if checks.flag("targeted", targeted) else 1.0
    if kind == "kl":
        if reference is None:
            raise TypeError("reference must be given for kind='kl'")
        checks.floating("reference", reference)
        checks.same("reference", reference, "logits", logits)
        checks.constant("reference", reference)
        dtype = torch.promote_types(logits.dtype, reference.dtype)
        return (logits.to(dtype),), (None, code), (reference.to(dtype).contiguous(),), sign
    if target is None:
        raise TypeError(f"target must be given for kind={kind!r}")
    checks.target(target, logits)
    target = target.contiguous()
    truth: tuple[Tensor, ...] = ()
    if kind == "dlr" and targeted:
        if reference is None:
            raise ValueError("reference must be given for kind='dlr' with targeted=True: the true classes [N], int64")
        checks.target(reference, logits, "reference")
        truth, code, sign = (reference.contiguous(),), _TARGETED_DLR, 1.0
    if logits.shape[1] < _LEAST_CLASSES.get(code, 1):
        chosen = f"kind={kind!r}" + (" with targeted=True" if code == _TARGETED_DLR else "")
        least = f"[N, C] with C of at least {_LEAST_CLASSES[code]}"
        raise ValueError(f"logits must have shape {least} for {chosen}, got {list(logits.shape)}")
    return (logits,), (target, code), truth, sign


def _attack_loss_reference(logits, target, kind, scale, reduce, grad, ref, weight):
    targeted = kind == _TARGETED_DLR
    name = "dlr" if targeted else next(name for name, code in _KINDS.items() if code == kind)
    value, *grads = reference.attack_loss_value_and_grad(logits, target, kind=name, reference=ref, targeted=targeted)
    return loss.finish(value, grads, scale, reduce, grad, weight)


def _check_classes(logits, target, kind, scale, reduce, grad, ref, weight):
    if target is not None:
        checks.target_values(target, logits.shape[1])
    if kind == _TARGETED_DLR:
        checks.target_values(ref, logits.shape[1], "reference")


_attack_loss = define(
    "attack_loss",
    family="attack_loss",
    fake=lambda logits, target, kind, scale, *rest: loss.fake((logits,), *rest),
    reference=_attack_loss_reference,
    check=_check_classes,
)
