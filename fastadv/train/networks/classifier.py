"""A network behind its normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.distill.parts.features import features_of


class Normalize(nn.Module):
    """(x - mean) / std per channel, x [N, C, H, W]. The statistics are constants: no part of a state_dict."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean, std: {mean}, {std}, expected one value a channel and std > 0")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """A network behind its normalisation: pixels in [0, 1] [N, C, H, W] to logits [N, classes]."""

    def __init__(self, normalize: Normalize, network: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.normalize(x))

    def with_features(self, x: Tensor) -> Features:
        """The network's; TypeError where it has none."""
        return features_of("network", self.network, self.normalize(x))
