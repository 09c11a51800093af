"""Losses on clean images, on which a method that draws samples can build: BaseLoss."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.building import example_features
from fastadv.distill.parts.features import Features, observe
from fastadv.distill.parts.teacher import teacher_features


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
