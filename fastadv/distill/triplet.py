"""Distillation by triplets of logits: TripletKD."""

from __future__ import annotations

import math

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.distill.parts import noise
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.weighted import WeightedLoss
from fastadv.ops import checks
from fastadv.ops.metric import triplet_margin_loss


class TripletKD(WeightedLoss):
    """Triplets of logits: ``D = mean max(0, |T(x) - S(x)|_2 - |T(x) - S(x')|_2 + margin)``, x' being of another class.

    The anchor is the teacher, both others are the student. x' is drawn from the images of other classes in the batch,
    anew in each step; an image whose batch has none counts zero. That the batch provides x' is this library's choice:
    the published code draws a second batch, which the student has to see as well.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`;
            the defaults are the published 2, 1, 1 and 1.
        margin: a positive float, in the units of logits.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range.

    Source: Oki, Abe, Miyao, Kurita, "Triplet loss for knowledge distillation", IJCNN 2020, and its released code.
    """

    needs_features = False
    mixes_images = False
    term = "triplet"

    def __init__(
        self,
        *,
        beta: float = 2.0,
        gamma: float = 1.0,
        alpha: float = 1.0,
        temperature: float = 1.0,
        margin: float = 5.0,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.margin = checks.positive("margin", margin)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        of_student = student.logits
        different = batch.y[:, None] != batch.y
        # The largest of independent numbers is any of the others with the same probability.
        drawn = noise.uniform(
            len(batch.y), len(batch.y), seed=batch.seed_for(self), stream=noise.APART, like=of_student
        )
        chosen = drawn.masked_fill(~different, -math.inf).argmax(1)
        losses = triplet_margin_loss(
            teacher.logits, of_student, of_student[chosen], margin=self.margin, reduction="none"
        )
        return (losses * different.any(1)).mean()
