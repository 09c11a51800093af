"""ShuffleNetV2 1x (Ma et al. 2018) for 32x32 images as distillation compares it (Tian et al. 2020).

The stem is a 1x1 convolution without pooling. Parameter names are those of HobbitLong/RepDistiller.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, ReluBlock, Stage, conv_bn, run

STEM = 24
WIDTHS = (116, 232, 464)
BLOCKS = (4, 8, 4)
EMBEDDING = 1024


def _shuffled(left: Tensor, right: Tensor) -> Tensor:
    """The channels of both, in turn."""
    return F.channel_shuffle(torch.cat((left, right), dim=1), 2)


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


class ShuffleNetV2(Network):
    def __init__(self, *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(in_channels, STEM, 1)
        self.layer1, self.layer2, self.layer3 = (
            Stage(DownUnit(inputs, outputs), *(HalfUnit(outputs) for _ in range(count - 1)))
            for inputs, outputs, count in zip((STEM, *WIDTHS), WIDTHS, BLOCKS, strict=False)
        )
        self.conv2, self.bn2 = conv_bn(WIDTHS[-1], EMBEDDING, 1)
        self.linear = nn.Linear(EMBEDDING, num_classes)

    def with_features(self, x: Tensor) -> Features:
        stages = [stage.preactivation for stage in (self.layer1, self.layer2, self.layer3)]
        maps, preactivations = run(self.bn1(self.conv1(x)), stages)
        embedding = F.relu(self.bn2(self.conv2(maps[-1]))).mean(dim=(2, 3))
        return Features(maps, preactivations, embedding, self.linear(embedding))
