"""The sum of losses in which the base losses are compared: WeightedLoss."""

from __future__ import annotations

import abc

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.soft_targets import soft_targets
from fastadv.ops import checks


class WeightedLoss(BaseLoss):
    """``L = gamma CE(S, y) + alpha T^2 KL(p_T || p_S) + beta D(S, T)``, D being what a subclass adds.

    p are the softmax of logits over temperature T; CE and KL are means over the batch.

    Args:
        beta, gamma, alpha: not negative.
        temperature: T > 0.

    Raises:
        TypeError: a weight or temperature is no number.
        ValueError: a weight is negative or NaN, temperature is not positive and finite.

    Source of the sum and of most subclasses' weights: Tian, Krishnan, Isola, "Contrastive representation distillation",
    ICLR 2020, as its released code (RepDistiller) has it.
    """

    needs_teacher = True
    needs_features = True
    mixes_images = True

    def __init__(self, *, beta: float, gamma: float, alpha: float, temperature: float) -> None:
        super().__init__()
        self.beta = checks.not_negative("beta", beta)
        self.gamma = checks.not_negative("gamma", gamma)
        self.smooths_labels = self.gamma > 0
        self.alpha = checks.not_negative("alpha", alpha)
        self.temperature = checks.positive("temperature", temperature)

    @abc.abstractmethod
    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """Return D, a scalar, of the networks' features of ``batch.x``."""

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        assert teacher is not None
        loss = self.beta * self.distance(student, teacher, batch)
        total = self.gamma + self.alpha
        if total == 0:
            return loss
        # One op computes both terms, whose weights it wants to sum to one.
        share = self.alpha / total
        return loss + total * soft_targets(
            student.logits, teacher.logits, batch, temperature=self.temperature, alpha=share
        )

    def extra_repr(self) -> str:
        return f"beta={self.beta}, gamma={self.gamma}, alpha={self.alpha}, temperature={self.temperature}"
