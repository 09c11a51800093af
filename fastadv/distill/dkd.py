"""Decoupled distillation: DKD."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Batch
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.share_of_training import share_of_training
from fastadv.ops import checks
from fastadv.ops.divergence import dkd_loss


class DKD(BaseLoss):
    """Decoupled distillation: ``L = gamma CE(S, y) + r D``, D being :func:`fastadv.dkd_loss` of the logits.

    r rises linearly from 0 to 1 in the first ``ramp`` of training. Means are over the batch.

    Args:
        temperature, alpha, beta: of D, alpha weighs the target class against the others, beta the others among each
            other. The authors choose beta for each pair of networks.
        gamma: weight of the cross-entropy, not negative.
        ramp: share of training; 0 is none. The published 20 of 240 epochs, where r changes once an epoch.

    Raises:
        TypeError: an argument is no number.
        ValueError: an argument is out of range.

    Source: Zhao, Cui, Song, Qiu, Liang, "Decoupled knowledge distillation", CVPR 2022, and its released code.
    """

    needs_teacher = True
    follows_progress = True
    term = "dkd"

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        gamma: float = 1.0,
        ramp: float = 20 / 240,
    ) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.alpha = checks.not_negative("alpha", alpha)
        self.beta = checks.not_negative("beta", beta)
        self.gamma = checks.not_negative("gamma", gamma)
        self.smooths_labels = self.gamma > 0
        self.ramp = share_of_training("ramp", ramp)

    def on_features(self, student: Features, teacher: Features | None, batch: Batch) -> Tensor:
        assert teacher is not None
        decoupled = dkd_loss(
            student.logits,
            teacher.logits,
            batch.y,
            temperature=self.temperature,
            alpha=self.alpha,
            beta=self.beta,
        )
        risen = min(batch.progress_for(self) / self.ramp, 1.0) if self.ramp else 1.0
        return self.gamma * batch.cross_entropy(student.logits) + risen * decoupled

    def extra_repr(self) -> str:
        weights = f"alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}"
        return f"temperature={self.temperature}, {weights}, ramp={self.ramp}"
