"""Parts of several families: what a network is, what its stages are made of, and the weights it starts from."""

import abc
from collections.abc import Callable, Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features

Part = Callable[[Tensor], Tensor]


class Network(nn.Module, abc.ABC):
    """x [N, C, H, W] to logits [N, num_classes]."""

    @abc.abstractmethod
    def with_features(self, x: Tensor) -> Features:
        """Return the logits and what leads to them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits


class ReluBlock(nn.Module, abc.ABC):
    """A block whose last operation is a ReLU."""

    @abc.abstractmethod
    def preactivation(self, x: Tensor) -> Tensor:
        """Return the input of the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x))


class Stage(nn.Sequential):
    """ReluBlocks one after the other, but for the ReLU of the last."""

    def forward(self, x: Tensor) -> Tensor:
        *blocks, last = self
        for block in blocks:
            x = block(x)
        assert isinstance(last, ReluBlock)
        return last.preactivation(x)


def global_average(x: Tensor) -> Tensor:
    """x [N, C, H, W] to [N, C]."""
    return x.mean(dim=(2, 3))


def run(stem: Tensor, stages: Iterable[Part], head: Part, *, embed: Part = global_average) -> Features:
    """Return the features of a stem and the stages that follow it, a ReLU after each, an embedding and a head.

    stem: its preactivation. stages: each from the map before it to its own preactivation. embed: from the last map.
    """
    preactivations, maps = [stem], [F.relu(stem)]
    for stage in stages:
        preactivations.append(stage(maps[-1]))
        maps.append(F.relu(preactivations[-1]))
    embedding = embed(maps[-1])
    return Features(tuple(maps), tuple(preactivations), embedding, head(embedding))


def conv_bn(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a convolution that keeps the resolution but for its stride, and the BatchNorm that follows it."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


def repeat(
    block: Callable[[int, int, int], nn.Module], inputs: int, outputs: int, count: int, stride: int
) -> list[nn.Module]:
    """Return `count` blocks of (inputs, outputs, stride), of which the first alone changes channels and resolution."""
    return [block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(count - 1))]


def initialise_convolutions(network: nn.Module) -> None:
    """Normal weights of variance 2 / (outputs * kernel area) (He et al. 2015, for the backward pass), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
