"""Distillation by a bound on mutual information: VID."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from fastadv.distill.method import Batch
from fastadv.distill.parts.building import UninitializedModule, example_features
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.maps import Pair, at_one_size, layer_indices, map_pairs
from fastadv.distill.parts.weighted import WeightedLoss

_INITIAL_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5


class VID(WeightedLoss):
    """Variational information: ``D = sum_l mean 1/2 ((mu(F_S) - F_T)^2 / v + log v)``, over all elements of a map.

    That is, up to a constant, the negative log-likelihood of the teacher's map under a normal distribution around mu,
    three 1x1 convolutions without bias with ReLU between them, with a variance v for each of the teacher's channels,
    ``v = softplus(s) + 1e-5``, 5 at first. mu and s are learned with the student. Of two maps the larger is averaged
    down to the smaller first.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.
        layers: which of both networks' ``Features.maps``, negative from the end; None is all but the stem's.

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features.
        ValueError: an argument is out of range; layers is None and the networks have different numbers of maps.

    Source: Ahn, Hu, Damianou, Lawrence, Dai, "Variational information distillation for knowledge transfer", CVPR 2019,
    as RepDistiller has it.
    """

    term = "vid"

    def __init__(
        self,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.layers = layer_indices("layers", layers)
        self.likelihoods: nn.Module = UninitializedModule("VID")

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        pairs = map_pairs(*example_features(self, student, teacher, x), self.layers)
        self.likelihoods = _Likelihoods(pairs).to(pairs[0][1])

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        return self.likelihoods(map_pairs(student, teacher, self.layers))


class _Likelihoods(nn.ModuleList):
    """One :class:`_Likelihood` a pair of maps, and their sum."""

    def __init__(self, pairs: list[Pair]) -> None:
        super().__init__(_Likelihood(student.shape[1], teacher.shape[1]) for student, teacher in pairs)

    def forward(self, pairs: list[Pair]) -> Tensor:
        return torch.stack([of_layer(*pair) for of_layer, pair in zip(self, pairs, strict=True)]).sum()


class _Likelihood(nn.Module):
    """The term of D of one pair of maps, of ``inputs`` and ``outputs`` channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        # softplus(s) is the initial variance less its floor.
        self.scale = nn.Parameter(torch.full((outputs,), math.log(math.expm1(_INITIAL_VARIANCE - _LEAST_VARIANCE))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = at_one_size(student, teacher)
        variance = (softplus(self.scale) + _LEAST_VARIANCE)[:, None, None]
        return (((self.mean(student) - teacher).square() / variance + variance.log()) / 2).mean()
