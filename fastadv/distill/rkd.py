"""Distillation of distances and angles between images: RKD."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.weighted import WeightedLoss
from fastadv.ops import checks
from fastadv.ops.rkd import rkd_loss


class RKD(WeightedLoss):
    """Relational distillation: D is :func:`fastadv.rkd_loss` of what the networks' last linear layers read.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.
        distance_weight, angle_weight: of the two parts of D.

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features.
        ValueError: an argument is out of range.

    Source: Park, Kim, Lu, Cho, "Relational knowledge distillation", CVPR 2019, as RepDistiller has it.
    """

    term = "rkd"

    def __init__(
        self,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.distance_weight = checks.not_negative("distance_weight", distance_weight)
        self.angle_weight = checks.not_negative("angle_weight", angle_weight)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return rkd_loss(
            student.embedding,
            teacher.embedding,
            distance_weight=self.distance_weight,
            angle_weight=self.angle_weight,
        )
