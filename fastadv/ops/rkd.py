"""Relational distillation: rkd_loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.ops.layout import aligned
from fastadv.reference import rkd as reference


def rkd_loss(student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational distillation: the student's features are to lie to each other as the teacher's do.

    With ``d_ij = ||x_i - x_j||``, ``m`` the mean of all d_ij of i != j, and ``e_ij = (x_j - x_i) / d_ij``::

        loss = distance_weight * mean_ij h(d_ij / m [student] - d_ij / m [teacher])
             + angle_weight * mean_ijk h(<e_ij, e_ik> [student] - <e_ij, e_ik> [teacher])

    where h is the smooth L1 loss, ``h(t) = t^2 / 2`` up to ``|t| = 1`` and ``|t| - 1/2`` beyond, and the means are over
    all B^2 pairs and B^3 triples. Working memory is of order B^2 + B D, work of order B^2 D + B^3.
    Squared distances are float64, since those of near points cancel in the angles.

    d_ij is taken to be at least 1e-6, below which it has no gradient. Points less than 1e-12 apart coincide: e_ij is
    zero and so is its gradient, where the published formula would divide by 1e-12. A batch of fewer than two samples
    has no relations: its loss is 0, where the published formula gives NaN.

    Args:
        student: features [B, D], float64, float32, bfloat16 or float16; differentiable.
        teacher: features [B, D'], of a width of their own. No gradient is offered for them.
        distance_weight: factor of the distances' loss.
        angle_weight: factor of the angles' loss.

    Returns:
        The loss [], float64 for float64 features, else float32.

    Raises:
        TypeError: the features are not floating-point tensors, a weight is not a float.
        ValueError: batches or devices differ, teacher requires grad, a weight is NaN.

    Source: Park, Kim, Lu, Cho, "Relational knowledge distillation", CVPR 2019, as RepDistiller has it.
    """
    student, arguments = _arguments(student, teacher, distance_weight, angle_weight)
    return loss.evaluate(_rkd_loss, (student,), arguments, ())


def rkd_loss_value_and_grad(
    student: Tensor, teacher: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> tuple[Tensor, Tensor]:
    """:func:`rkd_loss` without autograd: ``(loss [], gradient w.r.t. student [B, D])``.

    Both are float64 for float64 features, else float32. Raises as :func:`rkd_loss`.
    """
    student, arguments = _arguments(student, teacher, distance_weight, angle_weight)
    return _rkd_loss.on(student)(*aligned(student), *arguments, True)


def _arguments(
    student: Tensor, teacher: Tensor, distance_weight: float, angle_weight: float
) -> tuple[Tensor, tuple[Tensor, float, float]]:
    checks.features("student", student)
    checks.features("teacher", teacher)
    checks.same_batch("teacher", teacher, "student", student)
    checks.constant("teacher", teacher)
    weights = checks.number("distance_weight", distance_weight), checks.number("angle_weight", angle_weight)
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), (teacher.to(dtype).contiguous(), *weights)


def _rkd_loss_reference(student, teacher, distance_weight, angle_weight, student_grad):
    weights = {"distance_weight": distance_weight, "angle_weight": angle_weight}
    if student_grad:
        return reference.rkd_loss_value_and_grad(student, teacher, **weights)
    value = reference.rkd_loss(student, teacher, **weights)
    return value, None


_rkd_loss = define(
    "rkd_loss",
    family="rkd",
    fake=lambda student, teacher, distance_weight, angle_weight, *needs_grad: loss.fake((student,), True, *needs_grad),
    reference=_rkd_loss_reference,
)
