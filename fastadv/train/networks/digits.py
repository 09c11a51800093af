"""Two networks for 8x8 digits: a teacher, and a student small enough to need one."""

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, conv_bn, run


class DigitsNet(Network):
    """Stages of 3x3 convolution, BatchNorm and ReLU, each of (channels, stride), and a linear layer on a 2x2 map."""

    def __init__(self, *stages: tuple[int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels, *(channels for channels, _ in stages)]
        self.stages = nn.ModuleList(
            nn.Sequential(*conv_bn(inputs, channels, 3, stride=stride))
            for inputs, (channels, stride) in zip(widths, stages, strict=False)
        )
        self.fc = nn.Linear(4 * widths[-1], num_classes)

    def with_features(self, x: Tensor) -> Features:
        stem, *stages = self.stages
        return run(stem(x), stages, self.fc, embed=lambda last: F.adaptive_avg_pool2d(last, 2).flatten(1))
