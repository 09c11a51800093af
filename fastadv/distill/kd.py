"""Distillation of soft targets: KD."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.soft_targets import soft_targets
from fastadv.ops import checks


class KD(BaseLoss):
    """Distillation of soft targets, :func:`fastadv.kd_loss`: ``(1 - alpha) CE(S, y) + alpha T^2 KL(p_T || p_S)``.

    p are the softmax of logits over temperature T, the loss the mean over the batch.

    Args:
        temperature: T > 0.
        alpha: the share of the soft targets.

    Raises:
        TypeError: temperature or alpha are no numbers.
        ValueError: temperature is not positive and finite, alpha is NaN.

    Source: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015.
    """

    needs_teacher = True
    mixes_images = True
    term = "kd"

    def __init__(self, temperature: float = 4.0, alpha: float = 0.9) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.alpha = checks.number("alpha", alpha)
        self.smooths_labels = self.alpha != 1

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        assert teacher is not None
        return soft_targets(student.logits, teacher.logits, batch, temperature=self.temperature, alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, alpha={self.alpha}"
