"""Distillation of one hidden map: FitNet."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fastadv.distill.method import Batch
from fastadv.distill.parts.building import UninitializedModule, example_features
from fastadv.distill.parts.connectors import regressor
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.maps import layer_index, map_pair
from fastadv.distill.parts.weighted import WeightedLoss
from fastadv.numerics import accumulate


class FitNet(WeightedLoss):
    """A regressor r makes the student's map look like the teacher's: ``D = mean (r(F_S) - F_T)^2``.

    The mean is over all elements. r, a convolution to the teacher's channels and size, BatchNorm and ReLU, is learned
    with the student. The published first stage that trains the layers up to the map alone is left out, as in
    RepDistiller.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.
        layer: which of both networks' ``Features.maps``; negative from the end.

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features.
        ValueError: an argument is out of range; no regressor leads from the student's map to the teacher's.

    Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: hints for thin deep nets", ICLR 2015, as
    RepDistiller has it.
    """

    term = "fitnet"

    def __init__(
        self,
        *,
        beta: float = 100.0,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        layer: int = 2,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.layer = layer_index("layer", layer)
        self.regressor: nn.Module = UninitializedModule("FitNet")

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        source, target = map_pair(*example_features(self, student, teacher, x), self.layer)
        self.regressor = nn.Sequential(regressor(source, target), nn.ReLU()).to(target)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        source, target = map_pair(student, teacher, self.layer)
        return mse_loss(accumulate(self.regressor(source)), target)
