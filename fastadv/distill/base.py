"""Losses of the logits alone, which a method that draws samples can build on: CrossEntropy and KD."""

from __future__ import annotations

import abc

from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.teacher import teacher_logits
from fastadv.ops import checks
from fastadv.ops.divergence import kd_loss


class BaseLoss(Method):
    """A method whose loss is a function of the two networks' logits on the clean images."""

    # What the loss is called among the terms of a method that builds on it.
    term: str

    @abc.abstractmethod
    def on_logits(self, student: Tensor, teacher: Tensor | None, y: Tensor) -> Tensor:
        """The loss, a scalar, of logits [N, C] and classes [N]."""

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        logits = teacher_logits(self, teacher, batch.x) if self.needs_teacher else None
        return {"loss": self.on_logits(student(batch.x), logits, batch.y)}


class CrossEntropy(BaseLoss):
    """Plain training: ``CE(student(x), y)``, the mean over the batch."""

    needs_teacher = False
    term = "ce"

    def on_logits(self, student: Tensor, teacher: Tensor | None, y: Tensor) -> Tensor:
        return cross_entropy(student, y)


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

    def on_logits(self, student: Tensor, teacher: Tensor | None, y: Tensor) -> Tensor:
        assert teacher is not None
        return kd_loss(student, teacher, y, temperature=self.temperature, alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, alpha={self.alpha}"
