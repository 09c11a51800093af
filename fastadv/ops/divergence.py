"""Distillation losses between the softmax rows of two networks: kl_distill, kd_loss, js_distill and dkd_loss.

Arguments that several of them take are described once, at :func:`kl_distill` and :func:`kd_loss`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.reference import divergence as reference

_NAMES = ("student", "teacher")


def kl_distill(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    """Knowledge distillation from raw logits: ``T^2 KL(softmax(teacher / T) || softmax(student / T))``.

    One call for ``F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T * T``.

    Args:
        student: logits [N, C], float64, float32, bfloat16 or float16; differentiable.
        teacher: logits [N, C]; differentiable where it requires grad.
        temperature: T > 0.
        weight: factors [N], one a sample, or None. They multiply and do not renormalise.
        reduction: "none" gives [N]; "sum"; "batchmean" is sum / N; "mean" is sum / (N C), as in ``F.kl_div``.

    Returns:
        The loss, float64 for float64 logits, else float32.

    Raises:
        TypeError: logits or weight are not floating-point tensors, temperature is no number.
        ValueError: shapes or devices differ, temperature is not positive, weight requires grad, unknown reduction.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    scale_and_reduce = loss.reduction_scale(reduction, student, over_classes=True)
    arguments = (checks.positive("temperature", temperature), *scale_and_reduce)
    return loss.evaluate(_kl_distill, inputs, arguments, loss.weights(weight, inputs), dense=dense)


def kl_distill_value_and_grad(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, teacher_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`kl_distill` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    The gradients are those of the summed loss, float64 for float64 logits, else float32; the teacher's is None unless
    ``teacher_grad``. Raises as :func:`kl_distill`.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    arguments = (checks.positive("temperature", temperature),)
    return loss.pair(_kl_distill, inputs, arguments, teacher_grad, dense=dense)


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy and distillation in one pass: ``(1 - alpha) CE(student, target) + alpha T^2 KL(p_T || p_S)``.

    Arguments, result and errors are those of :func:`kl_distill`, and:

    Args:
        target: classes [N], int64. On the CPU a value outside [0, C) is a ValueError, on a device its loss is NaN.
        temperature: T > 0 of both softmaxes of the divergence.
        alpha: weight of the divergence.
        reduction: "none" gives [N]; "sum"; "mean" and "batchmean" are sum / N.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    checks.target(target, student)
    scale_and_reduce = loss.reduction_scale(reduction, student)
    numbers = checks.positive("temperature", temperature), checks.number("alpha", alpha)
    arguments = (target.contiguous(), *numbers, *scale_and_reduce)
    return loss.evaluate(_kd_loss, inputs, arguments, loss.weights(weight, inputs), dense=dense)


def kd_loss_value_and_grad(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 0.9,
    teacher_grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`kd_loss` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    Gradients as :func:`kl_distill_value_and_grad`, errors as :func:`kd_loss`.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    checks.target(target, student)
    arguments = (target.contiguous(), checks.positive("temperature", temperature), checks.number("alpha", alpha))
    return loss.pair(_kd_loss, inputs, arguments, teacher_grad, dense=dense)


def js_distill(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "batchmean",
) -> Tensor:
    """Jensen-Shannon divergence from raw logits: ``T^2 / 2 [KL(p || m) + KL(q || m)]``, ``m = (p + q) / 2``.

    p and q are the softmax of teacher / T and student / T. The loss is symmetric and at most ``T^2 log 2``. Arguments,
    result and errors are those of :func:`kl_distill`.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    scale_and_reduce = loss.reduction_scale(reduction, student, over_classes=True)
    arguments = (checks.positive("temperature", temperature), *scale_and_reduce)
    return loss.evaluate(_js_distill, inputs, arguments, loss.weights(weight, inputs), dense=dense)


def js_distill_value_and_grad(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, teacher_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`js_distill` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    Gradients as :func:`kl_distill_value_and_grad`, errors as :func:`js_distill`.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    arguments = (checks.positive("temperature", temperature),)
    return loss.pair(_js_distill, inputs, arguments, teacher_grad, dense=dense)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Decoupled knowledge distillation: ``T^2 [alpha KL(b_T || b_S) + beta KL(o_T || o_S)]``.

    b is the Bernoulli distribution of target against all other classes, o the softmax over the other classes alone,
    both of logits / T. Computed from log-odds, so that saturated logits give finite and right values. C is at least 2.
    Arguments, result and errors are those of :func:`kd_loss`, and:

    Args:
        temperature: T > 0.
        alpha: weight of the target's part.
        beta: weight of the other classes' part.

    Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled knowledge distillation", CVPR 2022.
    """
    inputs = (student, teacher)
    dense, arguments = _dkd_arguments(inputs, target, temperature, alpha, beta)
    arguments = (*arguments, *loss.reduction_scale(reduction, student))
    return loss.evaluate(_dkd_loss, inputs, arguments, loss.weights(weight, inputs), dense=dense)


def dkd_loss_value_and_grad(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    teacher_grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`dkd_loss` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    Gradients as :func:`kl_distill_value_and_grad`, errors as :func:`dkd_loss`.
    """
    inputs = (student, teacher)
    dense, arguments = _dkd_arguments(inputs, target, temperature, alpha, beta)
    return loss.pair(_dkd_loss, inputs, arguments, teacher_grad, dense=dense)


def _dkd_arguments(
    inputs: tuple[Tensor, Tensor], target: Tensor, temperature: float, alpha: float, beta: float
) -> tuple[bool, tuple[Any, ...]]:
    """Return whether the inputs are dense, and all other arguments before scale and reduction."""
    student, teacher = inputs
    dense = checks.logits_alike(_NAMES, student, teacher)
    if student.shape[1] < 2:
        raise ValueError(f"student must have shape [N, C] with C of at least 2, got {list(student.shape)}")
    checks.target(target, student)
    numbers = checks.positive("temperature", temperature), checks.number("alpha", alpha), checks.number("beta", beta)
    return dense, (target.contiguous(), *numbers)


def _kl_distill_reference(student, teacher, temperature, *rest):
    value, *grads = reference.kl_distill_value_and_grad(student, teacher, temperature=temperature)
    return loss.finish(value, grads, *rest)


def _kd_loss_reference(student, teacher, target, temperature, alpha, *rest):
    value, *grads = reference.kd_loss_value_and_grad(student, teacher, target, temperature=temperature, alpha=alpha)
    return loss.finish(value, grads, *rest)


def _js_distill_reference(student, teacher, temperature, *rest):
    value, *grads = reference.js_distill_value_and_grad(student, teacher, temperature=temperature)
    return loss.finish(value, grads, *rest)


def _dkd_loss_reference(student, teacher, target, temperature, alpha, beta, *rest):
    weights = {"temperature": temperature, "alpha": alpha, "beta": beta}
    value, *grads = reference.dkd_loss_value_and_grad(student, teacher, target, **weights)
    return loss.finish(value, grads, *rest)


_kl_distill = define(
    "kl_distill",
    family="divergence",
    fake=lambda student, teacher, temperature, scale, *rest: loss.fake((student, teacher), *rest),
    reference=_kl_distill_reference,
)
_kd_loss = define(
    "kd_loss",
    family="divergence",
    fake=lambda student, teacher, target, temperature, alpha, scale, *rest: loss.fake((student, teacher), *rest),
    reference=_kd_loss_reference,
    check=lambda student, teacher, target, *_: checks.target_values(target, student.shape[1]),
)
_js_distill = define(
    "js_distill",
    family="divergence",
    fake=lambda student, teacher, temperature, scale, *rest: loss.fake((student, teacher), *rest),
    reference=_js_distill_reference,
)
_dkd_loss = define(
    "dkd_loss",
    family="divergence",
    fake=lambda student, teacher, target, temperature, alpha, beta, scale, *rest: loss.fake((student, teacher), *rest),
    reference=_dkd_loss_reference,
    check=lambda student, teacher, target, *_: checks.target_values(target, student.shape[1]),
)
