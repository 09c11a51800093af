"""Losses on clean images, which a method that draws samples can build on, and the two plainest: CrossEntropy and KD."""

from __future__ import annotations

import abc

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.building import example_features
from fastadv.distill.parts.features import Features, observe
from fastadv.distill.parts.teacher import teacher_features
from fastadv.ops import checks
from fastadv.ops.divergence import kd_loss
from fastadv.reference._common import accumulate


class BaseLoss(Method):
    """A method whose loss compares what the two networks show of the clean images, each of which sees them once."""

    # What the loss is called among the terms of a method that builds on it.
    term: str
    # Whether it reads more than logits: only then the networks must have ``with_features``.
    needs_features: bool = False

    @abc.abstractmethod
    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        """The loss, a scalar, of what the networks show of ``batch.x``; teacher is None only where none is needed."""

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        """As :meth:`Method.build`. Raises TypeError for a network without the features that the loss reads."""
        if self.needs_features:
            example_features(self, student, teacher, x)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        deep = self.needs_features
        of_teacher = teacher_features(self, teacher, batch.x, deep=deep) if self.needs_teacher else None
        return {"loss": self.on_features(observe("student", student, batch.x, deep=deep), of_teacher, batch)}


class CrossEntropy(BaseLoss):
    """Plain training: ``CE(student(x), y)``, the mean over the batch."""

    needs_teacher = False
    term = "ce"

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        return cross_entropy(accumulate(student.logits), batch.y)


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
    term = "kd"

    def __init__(self, temperature: float = 4.0, alpha: float = 0.9) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.alpha = checks.number("alpha", alpha)

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        assert teacher is not None
        return kd_loss(student.logits, teacher.logits, batch.y, temperature=self.temperature, alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, alpha={self.alpha}"
