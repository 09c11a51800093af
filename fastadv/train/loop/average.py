"""The exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor

from fastadv.train.networks.models import Classifier


class WeightAverage:
    """`network` is a copy of `model` with weights ``a = decay a + (1 - decay) w`` and the newest buffers."""

    def __init__(self, model: Classifier, decay: float) -> None:
        self.network = copy.deepcopy(model).requires_grad_(False)
        self._model, self._decay = model, decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are now."""
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(self._model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - self._decay)
        for average, buffer in zip(self.network.buffers(), self._model.buffers(), strict=True):
            average.copy_(buffer)
