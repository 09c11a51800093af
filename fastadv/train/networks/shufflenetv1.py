"""ShuffleNet (Zhang et al. 2018), 3 groups, for 32x32 images as distillation compares it (Tian et al. 2020).

The stem is a 1x1 convolution without pooling, and a ReLU follows the depthwise convolution too. Parameter names are
those of HobbitLong/RepDistiller.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, ReluBlock, Stage, conv_bn, repeat, run

GROUPS = 3
STEM = 24
WIDTHS = (240, 480, 960)
BLOCKS = (4, 8, 4)


class ShuffleUnit(ReluBlock):
    """relu(F(x) + x), or relu of F(x) beside the average-pooled x where the resolution halves.

    F = 1x1 in groups, channel shuffle, 3x3 depthwise, 1x1 in groups.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        inner = own // 4
        # The stem has too few channels to be split.
        self._groups = 1 if inputs == STEM else GROUPS
        self._strided = stride == 2
        self.conv1, self.bn1 = conv_bn(inputs, inner, 1, groups=self._groups)
        self.conv2, self.bn2 = conv_bn(inner, inner, 3, stride=stride, groups=inner)
        self.conv3, self.bn3 = conv_bn(inner, own, 1, groups=GROUPS)

    def preactivation(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(F.channel_shuffle(out, self._groups))))
        out = self.bn3(self.conv3(out))
        if self._strided:
            return torch.cat((out, F.avg_pool2d(x, 3, stride=2, padding=1)), dim=1)
        return out + x


class ShuffleNetV1(Network):
    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, STEM, 1)
        self.layer1, self.layer2, self.layer3 = (
            Stage(*repeat(ShuffleUnit, inputs, outputs, count, stride=2))
            for inputs, outputs, count in zip((STEM, *WIDTHS), WIDTHS, BLOCKS, strict=False)
        )
        self.linear = nn.Linear(WIDTHS[-1], num_classes)

    def with_features(self, x: Tensor) -> Features:
        stages = [stage.preactivation for stage in (self.layer1, self.layer2, self.layer3)]
        maps, preactivations = run(self.bn1(self.conv1(x)), stages)
        embedding = maps[-1].mean(dim=(2, 3))
        return Features(maps, preactivations, embedding, self.linear(embedding))
