"""Losses that match what student and teacher lose, respond or activate, rather than what they predict."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.ops.layout import aligned
from fastadv.ops.positions import over_positions
from fastadv.reference import matching as reference

_NAMES = ("student", "teacher")
_RESPONSES = ("student_plus", "student_minus", "teacher_plus", "teacher_minus")


def loss_matching(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "mean",
    class_dim: int | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Squared gap between the two cross-entropies of each sample: ``(CE(student, target) - CE(teacher, target))^2``.

    Args:
        student: logits [N, C], float64, float32, bfloat16 or float16; differentiable.
        teacher: logits [N, C]; differentiable where it requires grad.
        target: classes [N], int64. On the CPU a value outside [0, C) is an error, on a device its loss is NaN.
        weight: a factor, or factors [N], one a sample. They multiply and do not renormalise.
        reduction: "none" gives [N]; "sum"; "mean" and "batchmean" are sum / N.
        class_dim: as in :func:`kl_distill`.
        ignore_index: as in :func:`kd_loss`.

    Returns:
        The loss, float64 for float64 logits, else float32.

    Raises:
        TypeError: logits or weight are not floating-point tensors, target is not int64.
        ValueError: shapes or devices differ, target is out of range, weight requires grad, class_dim is no dimension
            behind the first, unknown reduction.

    Source: the regulariser of TALD (teacher adversarial local distribution, WACV 2023), as its released code has it.
    """
    if class_dim is not None or ignore_index is not None:
        settings: dict[str, Any] = {"weight": weight, "reduction": reduction}
        settings |= {"class_dim": class_dim, "ignore_index": ignore_index}
        return over_positions(loss_matching, {"student": student, "teacher": teacher}, target, **settings)
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    checks.target(target, student)
    scale_and_reduce, weights = loss.weighted_reduction(reduction, weight, inputs)
    return loss.evaluate(_loss_matching, inputs, (target.contiguous(),), scale_and_reduce, weights, dense=dense)


def loss_matching_value_and_grad(
    student: Tensor, teacher: Tensor, target: Tensor, *, teacher_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`loss_matching` without autograd: ``(loss [N], gradient w.r.t. student [N, C], and teacher or None)``.

    The gradients are those of the summed loss, float64 for float64 logits, else float32. The teacher's is None unless
    ``teacher_grad``. Raises as :func:`loss_matching`.
    """
    dense, inputs = checks.logits_alike(_NAMES, student, teacher), (student, teacher)
    checks.target(target, student)
    return loss.pair(_loss_matching, inputs, (target.contiguous(),), teacher_grad, dense=dense)


def igdm_loss(
    student_plus: Tensor,
    student_minus: Tensor,
    teacher_plus: Tensor,
    teacher_minus: Tensor,
    *,
    weight: float | Tensor | None = None,
    reduction: str = "batchmean",
    class_dim: int | None = None,
) -> Tensor:
    """Indirect gradient matching: ``KL(softmax(T(x+d) - T(x-d)) || softmax(S(x+d) - S(x-d)))``.

    Where the networks are nearly linear along d, the differences of the logits are twice the derivatives along d, so
    that matching them matches input gradients without differentiating twice.

    Args:
        student_plus: the student's logits [N, C] at x + d, float64, float32, bfloat16 or float16; differentiable.
        student_minus: the student's logits [N, C] at x - d; differentiable.
        teacher_plus: the teacher's logits [N, C] at x + d; differentiable where it requires grad.
        teacher_minus: the teacher's logits [N, C] at x - d; differentiable where it requires grad.
        weight: a factor, or factors [N], one a sample. They multiply and do not renormalise.
        reduction: "none" gives [N]; "sum"; "mean" and "batchmean" are sum / N.
        class_dim: as in :func:`kl_distill`.

    Returns:
        The loss, float64 for float64 logits, else float32.

    Raises:
        TypeError: logits or weight are not floating-point tensors.
        ValueError: shapes or devices differ, weight requires grad, unknown reduction.

    Source: Lee, Cho, Kim, "Indirect gradient matching for adversarial robust distillation", ICLR 2025.
    """
    inputs = (student_plus, student_minus, teacher_plus, teacher_minus)
    if class_dim is not None:
        logits = dict(zip(_RESPONSES, inputs, strict=True))
        return over_positions(igdm_loss, logits, class_dim=class_dim, weight=weight, reduction=reduction)
    dense = checks.logits_alike(_RESPONSES, *inputs)
    scale_and_reduce, weights = loss.weighted_reduction(reduction, weight, inputs)
    return loss.evaluate(_igdm_loss, inputs, (), scale_and_reduce, weights, dense=dense)


def igdm_loss_value_and_grad(
    student_plus: Tensor,
    student_minus: Tensor,
    teacher_plus: Tensor,
    teacher_minus: Tensor,
    *,
    teacher_grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """:func:`igdm_loss` without autograd: ``(loss [N], and the gradients [N, C] by each of the four logits)``.

    The gradients are those of the summed loss, float64 for float64 logits, else float32. The teacher's are None unless
    ``teacher_grad``. Raises as :func:`igdm_loss`.
    """
    inputs = (student_plus, student_minus, teacher_plus, teacher_minus)
    dense = checks.logits_alike(_RESPONSES, *inputs)
    checks.flag("teacher_grad", teacher_grad)
    needs_grad = (True, True, teacher_grad, teacher_grad)
    value, *grads = loss.value_and_grad(_igdm_loss, inputs, (), needs_grad, dense=dense)
    return value, *grads


def activation_boundary_loss(
    student: Tensor, teacher: Tensor, *, margin: float | Tensor = 1.0, reduction: str = "batchmean"
) -> Tensor:
    """Activation boundary loss: a hinge that asks a student's neurons to be active where the teacher's are.

    Summed over the pre-activations s of the student and t of the teacher of each sample,

        ``max(0, margin - s)^2`` where t > 0, and ``max(0, margin + s)^2`` where t <= 0.

    Args:
        student: pre-activations [N, ...], float64, float32, bfloat16 or float16; differentiable.
        teacher: pre-activations of the student's shape. The loss is constant in them wherever it is continuous: no
            gradient is offered.
        margin: how far from zero the student has to be, a float or one a sample, [N]; not negative.
        reduction: "none" gives [N]; "sum"; "mean" and "batchmean" are sum / N.

    Returns:
        The loss, float64 for float64 pre-activations, else float32.

    Raises:
        TypeError: student or teacher are not floating-point tensors, margin is no number.
        ValueError: shapes or devices differ, teacher or margin require grad, margin is negative, unknown reduction.

    Source: Heo, Lee, Yun, Choi, "Knowledge transfer via distillation of activation boundaries formed by hidden
    neurons", AAAI 2019. RepDistiller multiplies layer l of L (from 0) by ``3 / 1000 * 2^(l - L + 1)``: multiply the
    default reduction by that for its figures.
    """
    inputs, arguments, optional = _boundary_arguments(student, teacher, margin)
    scale_and_reduce = loss.reduction_scale(reduction, student)
    return loss.evaluate(_activation_boundary_loss, inputs, arguments, scale_and_reduce, optional, dense=True)


def activation_boundary_loss_value_and_grad(
    student: Tensor, teacher: Tensor, *, margin: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """:func:`activation_boundary_loss` without autograd: ``(loss [N], gradient w.r.t. student [N, ...])``.

    The gradient is that of the summed loss, in the student's layout, float64 for float64 pre-activations, else float32.
    Raises as :func:`activation_boundary_loss`.
    """
    inputs, arguments, optional = _boundary_arguments(student, teacher, margin)
    value, grad = loss.value_and_grad(_activation_boundary_loss, inputs, arguments, (True,), optional, dense=True)
    return value, grad


def _boundary_arguments(
    student: Tensor, teacher: Tensor, margin: float | Tensor
) -> tuple[tuple[Tensor], tuple[Any, ...], tuple[Tensor, ...]]:
    """Return what :func:`loss.evaluate` takes: student, teacher and margin, and margins [N] where given."""
    dense = checks.samples_alike(_NAMES, student, teacher)
    checks.constant("teacher", teacher)
    if not dense:
        student, teacher = aligned(student, teacher)
    number, margins = checks.radius("margin", margin, student)
    return (student,), (teacher, number), () if margins is None else (margins,)


def _loss_matching_reference(student, teacher, target, *rest):
    value, *grads = reference.loss_matching_value_and_grad(student, teacher, target)
    return loss.finish(value, grads, *rest)


def _igdm_loss_reference(student_plus, student_minus, teacher_plus, teacher_minus, *rest):
    responses = (student_plus, student_minus, teacher_plus, teacher_minus)
    value, *grads = reference.igdm_loss_value_and_grad(*responses)
    return loss.finish(value, grads, *rest)


def _activation_boundary_loss_reference(student, teacher, margin, scale, reduce, student_grad, margin_n, weight):
    margin = margin if margin_n is None else margin_n
    value, grad = reference.activation_boundary_loss_value_and_grad(student, teacher, margin=margin)
    return loss.finish(value, [grad], scale, reduce, student_grad, weight)


_loss_matching = define(
    "loss_matching",
    family="matching",
    fake=lambda student, teacher, target, scale, *rest: loss.fake((student, teacher), *rest),
    reference=_loss_matching_reference,
    check=lambda student, teacher, target, *_: checks.target_values(target, student.shape[1]),
)
_igdm_loss = define(
    "igdm_loss",
    family="matching",
    fake=lambda a, b, c, d, scale, *rest: loss.fake((a, b, c, d), *rest),
    reference=_igdm_loss_reference,
)
_activation_boundary_loss = define(
    "activation_boundary_loss",
    family="matching",
    fake=lambda student, teacher, margin, scale, *rest: loss.fake((student,), *rest),
    reference=_activation_boundary_loss_reference,
)
