"""Distillation of the places a network looks at: AT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from fastadv.distill.method import Batch
from fastadv.distill.parts.building import example_features
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.maps import at_one_size, layer_indices, map_pairs
from fastadv.distill.parts.weighted import WeightedLoss


class AT(WeightedLoss):
    """Attention transfer: ``D = sum_l mean (Q(F_S) - Q(F_T))^2``, Q(F) being the map's attention of l2 length one.

    The attention of a map [N, C, H, W] is the mean of its squares over the channels, flattened to [N, H W]. The mean
    in D is over images and places. Of two maps the larger is averaged down to the smaller.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.
        layers: which of both networks' ``Features.maps``, negative from the end; None is all but the stem's.

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features.
        ValueError: an argument is out of range; layers is None and the networks have different numbers of maps.

    Source: Zagoruyko, Komodakis, "Paying more attention to attention", ICLR 2017, as RepDistiller has it; it takes the
    mean where the paper takes a norm.
    """

    term = "at"

    def __init__(
        self,
        *,
        beta: float = 1000.0,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.layers = layer_indices("layers", layers)

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        map_pairs(*example_features(self, student, teacher, x), self.layers)

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        pairs = (at_one_size(*pair) for pair in map_pairs(student, teacher, self.layers))
        return torch.stack([mse_loss(attention(s), attention(t)) for s, t in pairs]).sum()


def attention(x: Tensor) -> Tensor:
    """Return the attention of maps [N, C, H, W]: the mean of squares over channels, [N, H W], of l2 length one."""
    return normalize(x.square().mean(dim=1).flatten(1))
