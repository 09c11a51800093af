"""Parts of several families: blocks that end in a ReLU, stages of them, and the weights they start from."""

import abc
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


class ReluBlock(nn.Module, abc.ABC):
    """A block whose last operation is a ReLU."""

    @abc.abstractmethod
    def preactivation(self, x: Tensor) -> Tensor:
        """Return the input of the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x))


class Stage(nn.Sequential):
    """ReluBlocks one after the other."""

    def preactivation(self, x: Tensor) -> Tensor:
        """Return the input of the last block's ReLU."""
        *blocks, last = self
        for block in blocks:
            x = block(x)
        assert isinstance(last, ReluBlock)
        return last.preactivation(x)


def run(stem: Tensor, stages: Iterable[Stage]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return maps and preactivations of the stem, whose preactivation is given, and of the stages that follow it."""
    preactivations = [stem]
    maps = [F.relu(stem)]
    for stage in stages:
        preactivations.append(stage.preactivation(maps[-1]))
        maps.append(F.relu(preactivations[-1]))
    return tuple(maps), tuple(preactivations)


def initialise_convolutions(network: nn.Module) -> None:
    """Normal weights of variance 2 / (outputs * kernel area) (He et al. 2015, for the backward pass), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
