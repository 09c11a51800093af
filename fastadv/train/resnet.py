"""The residual networks for 32x32 images of He et al. 2016 (section 4.2): depth 6 n + 2, widths 16, 32, 64.

The shortcut where shapes change is a 1x1 convolution and BatchNorm. Parameter names are those of the public CIFAR
checkpoints of chenyaofo/pytorch-cifar-models.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), F = conv, BatchNorm, relu, conv, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def preactivation(self, x: Tensor) -> Tensor:
        """y before its relu."""
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x))


class CifarResNet(nn.Module):
    """x [N, C, H, W] to logits [N, num_classes]. Raises ValueError for a depth that is not 6 n + 2."""

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth: {depth}, expected 6 n + 2 with n >= 1")
        blocks = (depth - 2) // 6
        self.conv1 = _conv3x3(in_channels, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits

    def with_features(self, x: Tensor) -> Features:
        preactivations = [self.bn1(self.conv1(x))]
        maps = [F.relu(preactivations[0])]
        for stage in (self.layer1, self.layer2, self.layer3):
            *blocks, last = stage
            x = maps[-1]
            for block in blocks:
                x = block(x)
            preactivations.append(cast(BasicBlock, last).preactivation(x))
            maps.append(F.relu(preactivations[-1]))
        embedding = maps[-1].mean(dim=(2, 3))
        return Features(tuple(maps), tuple(preactivations), embedding, self.fc(embedding))
