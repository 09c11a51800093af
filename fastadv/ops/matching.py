"""Losses that match what student and teacher lose or respond, rather than what they predict: loss_matching."""

from __future__ import annotations

from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.reference import matching as reference


def loss_matching(
    student: Tensor, teacher: Tensor, target: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Squared gap between the two cross-entropies of each sample: ``(CE(student, target) - CE(teacher, target))^2``.

    Args:
        student: logits [N, C], float64, float32, bfloat16 or float16; differentiable.
        teacher: logits [N, C]; differentiable where it requires grad.
        target: classes [N], int64. On the CPU a value outside [0, C) is an error, on a device its loss is NaN.
        weight: optional factors [N], one a sample; they multiply and do not renormalise.
        reduction: "none" gives [N]; "sum"; "mean" and "batchmean" are sum / N.

    Returns:
        The loss, float64 for float64 logits, else float32.

    Raises:
        TypeError: logits or weight are not floating-point tensors, target is not int64.
        ValueError: shapes or devices differ, target is out of range, weight requires grad, unknown reduction.

    Source: the regulariser of TALD (teacher adversarial local distribution, WACV 2023), as its released code has it.
    """
    _check(student, teacher, target)
    scale, reduce = loss.reduction_scale(reduction, student)
    return loss.evaluate(_loss_matching, (student, teacher), (target.contiguous(),), weight, scale, reduce)


def loss_matching_value_and_grad(
    student: Tensor, teacher: Tensor, target: Tensor, *, teacher_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`loss_matching` without autograd: ``(loss [N], gradient by student [N, C], gradient by teacher or None)``.

    The gradients are those of the summed loss, float64 for float64 logits, else float32. The teacher's is None unless
    ``teacher_grad``. Raises as :func:`loss_matching`.
    """
    _check(student, teacher, target)
    return loss.pair(_loss_matching, student, teacher, (target.contiguous(),), teacher_grad)


def _check(student: Tensor, teacher: Tensor, target: Tensor) -> None:
    checks.logits("student", student)
    checks.floating("teacher", teacher)
    checks.same("teacher", teacher, "student", student)
    checks.target(target, student)


def _loss_matching_reference(student, teacher, target, *how):
    checks.target_values(target, student.shape[1])
    value, *grads = reference.loss_matching_value_and_grad(student, teacher, target)
    return loss.finish(value, grads, *how)


_loss_matching = define(
    "loss_matching",
    family="matching",
    fake=lambda student, teacher, target, weight, scale, *how: loss.fake((student, teacher), *how),
    reference=_loss_matching_reference,
)
