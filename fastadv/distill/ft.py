"""Distillation of factors: FT."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fastadv.attacks.loop.arguments import count
from fastadv.distill.at import attention
from fastadv.distill.method import Batch, Network, Terms
from fastadv.distill.parts.building import UninitializedModule, example_features
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.maps import at_one_size, map_pair
from fastadv.distill.parts.teacher import teacher_features
from fastadv.distill.parts.weighted import WeightedLoss
from fastadv.numerics import accumulate
from fastadv.ops import checks


class FT(WeightedLoss):
    """Factor transfer: ``D = mean |Q(tau(F_S)) - Q(pi(F_T))|``, Q being AT's attention and F the last maps.

    The factors pi(F_T) are the inner maps of an autoencoder of the teacher's maps: a paraphraser pi of three 3x3
    convolutions with leaky ReLU (slope 0.1) to ``ratio`` times as many channels, and a decoder of three transposed
    ones back. The warm-up trains both with the mean squared error of the reconstruction; from then on pi is frozen. The
    translator tau, built as pi but with BatchNorm after each convolution, is learned with the student.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.
        ratio: channels of a factor to channels of the teacher's map, in (0, 1].
        warm_up_epochs: epochs that train the paraphraser; the published code gives them the learning rate 0.01.

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features.
        ValueError: an argument is out of range.

    Source: Kim, Park, Kwak, "Paraphrasing complex network: network compression via factor transfer", NeurIPS 2018, as
    RepDistiller has it; it takes the mean where the paper takes a norm.
    """

    term = "ft"

    def __init__(
        self,
        *,
        beta: float = 200.0,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        ratio: float = 0.5,
        warm_up_epochs: int = 30,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.ratio = checks.fraction("ratio", ratio)
        self.warm_up_epochs = count("warm_up_epochs", warm_up_epochs, 0)
        self.paraphraser: nn.Module = UninitializedModule("FT")
        self.decoder: nn.Module = UninitializedModule("FT")
        self.translator: nn.Module = UninitializedModule("FT")

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        of_student, of_teacher = map_pair(*example_features(self, student, teacher, x), -1)
        channels = of_teacher.shape[1]
        factors = max(1, int(channels * self.ratio))
        self.paraphraser = _encoder(channels, factors).to(of_teacher)
        self.decoder = _chain(nn.ConvTranspose2d, factors, factors, channels, channels).to(of_teacher)
        self.translator = _encoder(of_student.shape[1], factors, normalised=True).to(of_teacher)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        of_student, of_teacher = map_pair(student, teacher, -1)
        with torch.no_grad():
            paraphrased = self.paraphraser(of_teacher)
        translated, paraphrased = at_one_size(accumulate(self.translator(of_student)), accumulate(paraphrased))
        return (attention(translated) - attention(paraphrased)).abs().mean()

    def own_parameters(self) -> Iterator[nn.Parameter]:
        return self.translator.parameters()

    def warm_up_parameters(self) -> Iterator[nn.Parameter]:
        return itertools.chain(self.paraphraser.parameters(), self.decoder.parameters())

    def warm_up_terms(self, teacher: Network | None, batch: Batch) -> Terms:
        maps = accumulate(teacher_features(self, teacher, batch.x, deep=True).maps[-1])
        return {"loss": mse_loss(accumulate(self.decoder(self.paraphraser(maps))), maps)}


def _encoder(channels: int, factors: int, *, normalised: bool = False) -> nn.Sequential:
    return _chain(nn.Conv2d, channels, channels, factors, factors, normalised=normalised)


def _chain(layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], *widths: int, normalised: bool = False) -> nn.Sequential:
    """Return layers of 3x3, BatchNorm where ``normalised``, and leaky ReLU that keep the size of a map."""
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        modules.append(layer(inputs, outputs, 3, padding=1))
        if normalised:
            modules.append(nn.BatchNorm2d(outputs))
        modules.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*modules)
