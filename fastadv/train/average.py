"""The exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class WeightAverage:
    """`network` is a copy of `model` with weights ``a = decay a + (1 - decay) w`` and the newest buffers."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(model).requires_grad_(False)
        self._model, self._decay = model, decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights as they are now."""
        averages, weights = (list(network.parameters()) for network in (self.network, self._model))
        torch._foreach_lerp_(averages, weights, 1 - self._decay)
        for average, buffer in zip(self.network.buffers(), self._model.buffers(), strict=True):
            average.copy_(buffer)
