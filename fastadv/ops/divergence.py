"""Distillation losses between the softmax rows of two networks: kl_distill, kd_loss, js_distill and dkd_loss.

Arguments that several of them take are described once, at :func:`kl_distill` and :func:`kd_loss`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastadv.numerics import accumulation_dtype
from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.ops.positions import over_positions
from fastadv.reference import divergence as reference

_NAMES = ("student", "teacher")
# Whether the roles of the networks are exchanged.
DIRECTIONS = {"forward": False, "reverse": True}


def kl_distill(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    direction: str = "forward",
    weight: float | Tensor | None = None,
    reduction: str = "batchmean",
    class_dim: int | None = None,
) -> Tensor:
    """Knowledge distillation from raw logits: ``T^2 KL(softmax(teacher / T) || softmax(student / T))``.

    One call for ``F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="batchmean") * T * T``.

    Args:
        student: logits [N, C], float64, float32, bfloat16 or float16; differentiable.
        teacher: logits [N, C]; differentiable where it requires grad.
        temperature: T > 0, a float or a tensor without dimensions on the CPU; no gradient is offered for it.
        direction: "forward", or "reverse" for ``T^2 KL(softmax(student / T) || softmax(teacher / T))``.
        weight: a factor, or factors [N], one a sample. They multiply and do not renormalise.
        reduction: "none" gives [N]; "sum"; "batchmean" is sum / N; "mean" is sum / (N C), as in ``F.kl_div``.
        class_dim: the dimension of the classes, of logits with more dimensions than [N, C]: 1 for [N, C, H, W], -1 for
            [N, L, C]. Each index of the others is a position with a distribution, a weight and a loss of its own;
            "batchmean" still divides by N, "mean" by the number of positions times C.

    Returns:
        The loss, float64 for float64 logits, else float32.

    Raises:
        TypeError: logits or weight are not floating-point tensors, a number is no number.
        ValueError: shapes or devices differ, temperature is not positive, temperature or weight require grad, class_dim
            is no dimension behind the first, unknown direction or reduction.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """
    if class_dim is not None:
        settings: dict[str, Any] = {"temperature": temperature, "direction": direction}
        settings |= {"weight": weight, "reduction": reduction}
        return over_positions(kl_distill, {"student": student, "teacher": teacher}, class_dim=class_dim, **settings)
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    if checks.choice("direction", direction, DIRECTIONS):
        inputs = (teacher, student)
    scale_and_reduce, weights = loss.weighted_reduction(reduction, weight, inputs, over_classes=True)
    arguments = (checks.temperature(temperature),)
    return loss.evaluate(_kl_distill, inputs, arguments, scale_and_reduce, weights, dense=dense)


def kl_distill_value_and_grad(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    direction: str = "forward",
    teacher_grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`kl_distill` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    The gradients are those of the summed loss, float64 for float64 logits, else float32; the teacher's is None unless
    ``teacher_grad``. Raises as :func:`kl_distill`.
    """
    dense, arguments = checks.logits_alike(_NAMES, student, teacher), (checks.temperature(temperature),)
    if not checks.choice("direction", direction, DIRECTIONS):
        return loss.pair(_kl_distill, (student, teacher), arguments, teacher_grad, dense=dense)
    needs_grad = (checks.flag("teacher_grad", teacher_grad), True)
    value, grad_teacher, grad_student = loss.value_and_grad(
        _kl_distill, (teacher, student), arguments, needs_grad, dense=dense
    )
    return value, grad_student, grad_teacher


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 4.0,
    alpha: float = 0.9,
    label_smoothing: float = 0.0,
    weight: float | Tensor | None = None,
    reduction: str = "mean",
    class_dim: int | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Cross-entropy and distillation in one pass: ``(1 - alpha) CE(student, target) + alpha T^2 KL(p_T || p_S)``.

    Arguments, result and errors are those of :func:`kl_distill`, and:

    Args:
        target: classes [N], int64. On the CPU a value outside [0, C) is a ValueError, on a device its loss is NaN. Or
            what to take for the probabilities of the classes, of the student's shape and floating-point, not negative,
            as in ``F.cross_entropy``; no gradient is offered for them. These take two passes.
        temperature: T > 0 of both softmaxes of the divergence.
        alpha: weight of the divergence.
        label_smoothing: share of the target, in [0, 1], that is spread evenly over all classes; takes two passes.
        reduction: "none" gives [N]; "sum"; "mean" and "batchmean" are sum / N, but with ``class_dim`` or
            ``ignore_index`` "mean" divides by the number of positions that count, "batchmean" by N.
        ignore_index: target of the samples or positions that have neither loss nor gradient, whatever their logits.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """
    settings: dict[str, Any] = {"temperature": temperature, "weight": weight, "reduction": reduction}
    if class_dim is not None or ignore_index is not None:
        settings |= {"alpha": alpha, "label_smoothing": label_smoothing}
        settings |= {"class_dim": class_dim, "ignore_index": ignore_index}
        return over_positions(kd_loss, {"student": student, "teacher": teacher}, target, **settings)
    label_smoothing = checks.share("label_smoothing", label_smoothing)
    if label_smoothing or (isinstance(target, Tensor) and target.is_floating_point()):
        probabilities = _probabilities(student, target, label_smoothing)
        return _soft_kd_loss(student, teacher, probabilities, checks.number("alpha", alpha), **settings)
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    checks.target(target, student)
    scale_and_reduce, weights = loss.weighted_reduction(reduction, weight, inputs)
    numbers = checks.temperature(temperature), checks.number("alpha", alpha)
    arguments = (target.contiguous(), *numbers)
    return loss.evaluate(_kd_loss, inputs, arguments, scale_and_reduce, weights, dense=dense)


def kd_loss_value_and_grad(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 4.0,
    alpha: float = 0.9,
    teacher_grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`kd_loss` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    Gradients as :func:`kl_distill_value_and_grad`, errors as :func:`kd_loss`.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    checks.target(target, student)
    arguments = (target.contiguous(), checks.temperature(temperature), checks.number("alpha", alpha))
    return loss.pair(_kd_loss, inputs, arguments, teacher_grad, dense=dense)


def js_distill(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    weight: float | Tensor | None = None,
    reduction: str = "batchmean",
    class_dim: int | None = None,
) -> Tensor:
    """Jensen-Shannon divergence from raw logits: ``T^2 / 2 [KL(p || m) + KL(q || m)]``, ``m = (p + q) / 2``.

    p and q are the softmax of teacher / T and student / T. The loss is symmetric and at most ``T^2 log 2``. Arguments,
    result and errors are those of :func:`kl_distill`.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.
    """
    if class_dim is not None:
        settings: dict[str, Any] = {"temperature": temperature, "weight": weight, "reduction": reduction}
        return over_positions(js_distill, {"student": student, "teacher": teacher}, class_dim=class_dim, **settings)
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    scale_and_reduce, weights = loss.weighted_reduction(reduction, weight, inputs, over_classes=True)
    arguments = (checks.temperature(temperature),)
    return loss.evaluate(_js_distill, inputs, arguments, scale_and_reduce, weights, dense=dense)


def js_distill_value_and_grad(
    student: Tensor, teacher: Tensor, *, temperature: float | Tensor = 1.0, teacher_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`js_distill` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    Gradients as :func:`kl_distill_value_and_grad`, errors as :func:`js_distill`.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    arguments = (checks.temperature(temperature),)
    return loss.pair(_js_distill, inputs, arguments, teacher_grad, dense=dense)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight: float | Tensor | None = None,
    reduction: str = "mean",
    class_dim: int | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Decoupled knowledge distillation: ``T^2 [alpha KL(b_T || b_S) + beta KL(o_T || o_S)]``.

    b is the Bernoulli distribution of target against all other classes, o the softmax over the other classes alone,
    both of logits / T. Computed from log-odds, so that saturated logits give finite and right values. C is at least 2.
    Arguments, result and errors are those of :func:`kd_loss`, and:

    Args:
        target: classes [N], int64.
        temperature: T > 0.
        alpha: weight of the target's part.
        beta: weight of the other classes' part.

    Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled knowledge distillation", CVPR 2022.
    """
    if class_dim is not None or ignore_index is not None:
        settings: dict[str, Any] = {"temperature": temperature, "alpha": alpha, "beta": beta}
        settings |= {"weight": weight, "reduction": reduction, "class_dim": class_dim, "ignore_index": ignore_index}
        return over_positions(dkd_loss, {"student": student, "teacher": teacher}, target, **settings)
    inputs = (student, teacher)
    dense, arguments = _dkd_arguments(inputs, target, temperature, alpha, beta)
    scale_and_reduce, weights = loss.weighted_reduction(reduction, weight, inputs)
    return loss.evaluate(_dkd_loss, inputs, arguments, scale_and_reduce, weights, dense=dense)


def dkd_loss_value_and_grad(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 4.0,
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
    inputs: tuple[Tensor, Tensor], target: Tensor, temperature: float | Tensor, alpha: float, beta: float
) -> tuple[bool, tuple[Any, ...]]:
    """Return whether the inputs are dense, and all other arguments before scale and reduction."""
    student, teacher = inputs
    dense = checks.logits_alike(_NAMES, student, teacher)
    if student.shape[1] < 2:
        raise ValueError(f"student must have shape [N, C] with C of at least 2, got {list(student.shape)}")
    checks.target(target, student)
    numbers = checks.temperature(temperature), checks.number("alpha", alpha), checks.number("beta", beta)
    return dense, (target.contiguous(), *numbers)


def _probabilities(student: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Return the probabilities [N, C] that ``target`` stands for, smoothed; NaN in the row of what is no class."""
    checks.logits("student", student)
    classes, dtype = student.shape[1], accumulation_dtype(student)
    if isinstance(target, Tensor) and target.is_floating_point():
        checks.same("target", target, "student", student)
        checks.constant("target", target)
        if target.device.type == "cpu" and not torch.compiler.is_compiling() and bool((target < 0).any()):
            raise ValueError(f"target must not be negative as probabilities, got {target.min().item()}")
        probabilities = target.detach().to(dtype)
    else:
        checks.target(target, student)
        checks.target_values(target, classes)
        valid = (target >= 0) & (target < classes)
        one = torch.where(valid, 1.0, torch.nan).to(dtype)[:, None]
        zeros = torch.zeros(student.shape, dtype=dtype, device=student.device)
        probabilities = zeros.scatter(1, torch.where(valid, target, 0)[:, None], one)
    return (1 - label_smoothing) * probabilities + label_smoothing / classes


def _soft_kd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    alpha: float,
    *,
    temperature: float | Tensor,
    weight: float | Tensor | None,
    reduction: str,
) -> Tensor:
    """:func:`kd_loss` for probabilities p as target, by ``CE(student, p) = |p|_1 KL(p / |p|_1 || p_S) + constant``."""
    checks.choice("reduction", reduction, loss.REDUCTIONS)
    reduction = "batchmean" if reduction == "mean" else reduction
    factor = 1.0 if weight is None else weight if isinstance(weight, Tensor) else checks.number("weight", weight)
    soft = kl_distill(student, teacher, temperature=temperature, weight=alpha * factor, reduction=reduction)
    total = target.sum(1)
    share = (1 - alpha) * factor * total
    hard = kl_distill(student, torch.where(total[:, None] == 0, 0, target.log()), weight=share, reduction=reduction)
    entropy = torch.special.entr(target).sum(1) - torch.special.entr(total)
    scale, reduce = loss.reduction_scale(reduction, student)
    constant = (1 - alpha) * factor * entropy
    return hard + soft + (scale * constant.sum() if reduce else constant)


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
