"""Plain training, without a teacher: CrossEntropy."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import Features


class CrossEntropy(BaseLoss):
    """Plain training: ``CE(student(x), y)``, the mean over the batch."""

    needs_teacher = False
    smooths_labels = True
    mixes_images = True
    term = "ce"

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        return batch.cross_entropy(student.logits)
