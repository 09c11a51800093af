"""ShuffleNet (Zhang et al. 2018), 3 groups, and ShuffleNetV2 1x (Ma et al. 2018) for 32x32 images.

As distillation compares them (Tian et al. 2020): the stem is a 1x1 convolution without pooling and, in the first, a
ReLU follows the depthwise convolution too. Parameter names are those of HobbitLong/RepDistiller.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, ReluBlock, Stage, conv_bn, global_average, repeat, run

GROUPS = 3
STEM = 24
BLOCKS = (4, 8, 4)
WIDTHS_V1 = (240, 480, 960)
WIDTHS_V2 = (116, 232, 464)
EMBEDDING = 1024


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
            for inputs, outputs, count in zip((STEM, *WIDTHS_V1), WIDTHS_V1, BLOCKS, strict=False)
        )
        self.linear = nn.Linear(WIDTHS_V1[-1], num_classes)

    def with_features(self, x: Tensor) -> Features:
        return run(self.bn1(self.conv1(x)), (self.layer1, self.layer2, self.layer3), self.linear)


class HalfUnit(ReluBlock):
    """One half of the channels as it is, the other through 1x1, 3x3 depthwise and 1x1; both shuffled.

    The half that stays is not negative, so that a last ReLU over all channels leaves it as it is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = conv_bn(half, half, 1)
        self.conv2, self.bn2 = conv_bn(half, half, 3, groups=half)
        self.conv3, self.bn3 = conv_bn(half, half, 1)

    def preactivation(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn3(self.conv3(self.bn2(self.conv2(out))))
        return _shuffled(kept, out)


class DownUnit(ReluBlock):
    """All channels through two strided branches, each of half the outputs; both shuffled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.bn1 = conv_bn(inputs, inputs, 3, stride=2, groups=inputs)
        self.conv2, self.bn2 = conv_bn(inputs, half, 1)
        self.conv3, self.bn3 = conv_bn(inputs, half, 1)
        self.conv4, self.bn4 = conv_bn(half, half, 3, stride=2, groups=half)
        self.conv5, self.bn5 = conv_bn(half, half, 1)

    def preactivation(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return _shuffled(left, self.bn5(self.conv5(right)))


def _shuffled(left: Tensor, right: Tensor) -> Tensor:
    """The channels of both, in turn."""
    return F.channel_shuffle(torch.cat((left, right), dim=1), 2)


class ShuffleNetV2(Network):
    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, STEM, 1)
        self.layer1, self.layer2, self.layer3 = (
            Stage(DownUnit(inputs, outputs), *(HalfUnit(outputs) for _ in range(count - 1)))
            for inputs, outputs, count in zip((STEM, *WIDTHS_V2), WIDTHS_V2, BLOCKS, strict=False)
        )
        self.conv2, self.bn2 = conv_bn(WIDTHS_V2[-1], EMBEDDING, 1)
        self.linear = nn.Linear(EMBEDDING, num_classes)

    def with_features(self, x: Tensor) -> Features:
        def embed(last: Tensor) -> Tensor:
            return global_average(F.relu(self.bn2(self.conv2(last))))

        return run(self.bn1(self.conv1(x)), (self.layer1, self.layer2, self.layer3), self.linear, embed=embed)
