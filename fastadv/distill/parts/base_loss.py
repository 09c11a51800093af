"""Losses on clean images, on which a method that draws samples can build: BaseLoss."""

from __future__ import annotations

import abc

from torch import Tensor, nn

from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.building import example_features
from fastadv.distill.parts.features import Features, observe
from fastadv.distill.parts.teacher import teacher_features


class BaseLoss(Method):
    """A method whose loss compares the networks' features of the clean images, which each of them sees once."""

    # What the loss is called among the terms of a method that builds on it.
    term: str
    # Whether it reads more than logits: only then the networks must have ``with_features``.
    needs_features: bool = False

    @abc.abstractmethod
    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        """Return the loss, a scalar, of the networks' features of ``batch.x``; teacher is None where none is needed."""

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        """Check that the networks have the features that the loss reads, see :meth:`Method.build`. TypeError if not."""
        if self.needs_features:
            example_features(self, student, teacher, x)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        deep = self.needs_features
        of_teacher = teacher_features(self, teacher, batch.x, deep=deep) if self.needs_teacher else None
        return {"loss": self.on_features(observe("student", student, batch.x, deep=deep), of_teacher, batch)}
