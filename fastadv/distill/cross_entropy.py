"""Plain training, without a teacher: CrossEntropy."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from fastadv.distill.method import Batch
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import Features
from fastadv.numerics import accumulate


class CrossEntropy(BaseLoss):
    """Plain training: ``CE(student(x), y)``, the mean over the batch."""

    needs_teacher = False
    term = "ce"

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        return cross_entropy(accumulate(student.logits), batch.y)
