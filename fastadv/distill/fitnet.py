"""Distillation of one hidden map: FitNet."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fastadv.distill.features import Features
from fastadv.distill.maps import Unbuilt, example_features, layer_index, map_pair
from fastadv.distill.method import Batch
from fastadv.distill.weighted import WeightedLoss
from fastadv.reference._common import accumulate


class FitNet(WeightedLoss):
    """A regressor r makes the student's map look like the teacher's: ``D = mean (r(F_S) - F_T)^2``.

    The mean is over all elements. r is learned with the student: a convolution to the teacher's channels and size (3x3
    with stride 2 where the student's map is twice as large, transposed 4x4 with stride 2 where it is half as large,
    else one that needs no padding), BatchNorm and ReLU. The published first stage that trains the layers up to the map
    alone is left out, as in RepDistiller.

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
        self.regressor: nn.Module = Unbuilt("FitNet")

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        source, target = map_pair(*example_features(self, student, teacher, x), self.layer)
        self.regressor = _regressor(source, target).to(target)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        source, target = map_pair(student, teacher, self.layer)
        return mse_loss(accumulate(self.regressor(source)), target)


def _regressor(source: Tensor, target: Tensor) -> nn.Sequential:
    """From maps like ``source`` to maps like ``target``, both [N, C, H, W]."""
    (height, width), size = source.shape[2:], tuple(target.shape[2:])
    inputs, outputs = source.shape[1], target.shape[1]
    convolution: nn.Module
    if (height, width) == (2 * size[0], 2 * size[1]):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == size:
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    elif height >= size[0] and width >= size[1]:
        convolution = nn.Conv2d(inputs, outputs, (1 + height - size[0], 1 + width - size[1]))
    else:
        raise ValueError(
            "layer must name a map of the student at least as large as the teacher's or half its size, got"
            f" {height}x{width} for {size[0]}x{size[1]}"
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
