"""Distillation of similarities between images: SP."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from fastadv.distill.method import Batch
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.maps import map_pair
from fastadv.distill.parts.precision import without_autocast
from fastadv.distill.parts.weighted import WeightedLoss


class SP(WeightedLoss):
    """Similarity preserving: ``D = |G_T - G_S|^2 / B^2``, the squared Frobenius norm of a B x B matrix.

    ``G = F F^T`` of a batch's last maps F, flattened to [B, C H W], each row of G divided by its l2 norm.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features.
        ValueError: an argument is out of range.

    Source: Tung, Mori, "Similarity-preserving knowledge distillation", ICCV 2019, as RepDistiller has it.
    """

    term = "sp"

    def __init__(
        self, *, beta: float = 3000.0, gamma: float = 1.0, alpha: float = 0.0, temperature: float = 4.0
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        of_student, of_teacher = map_pair(student, teacher, -1)
        return mse_loss(_similarities(of_student), _similarities(of_teacher))


def _similarities(x: Tensor) -> Tensor:
    """Return G of maps [B, C, H, W]."""
    rows = x.flatten(1)
    with without_autocast(x):
        return normalize(rows @ rows.T)
