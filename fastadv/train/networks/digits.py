"""Two networks for 8x8 digits: a teacher, and a student small enough to need one."""

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features


class DigitsNet(nn.Module):
    """Stages of 3x3 convolution, BatchNorm and ReLU, each of (channels, stride), and a linear layer on a 2x2 map."""

    def __init__(self, *stages: tuple[int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels, *(channels for channels, _ in stages)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, channels, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(channels)
            )
            for inputs, (channels, stride) in zip(widths, stages, strict=False)
        )
        self.fc = nn.Linear(4 * widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits

    def with_features(self, x: Tensor) -> Features:
        preactivations: list[Tensor] = []
        maps = [x]
        for stage in self.stages:
            preactivations.append(stage(maps[-1]))
            maps.append(F.relu(preactivations[-1]))
        embedding = F.adaptive_avg_pool2d(maps[-1], 2).flatten(1)
        return Features(tuple(maps[1:]), tuple(preactivations), embedding, self.fc(embedding))
