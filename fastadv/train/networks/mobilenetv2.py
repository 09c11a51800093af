"""MobileNetV2 (Sandler et al. 2018) for 32x32 images, in the two forms of the literature; neither cuts ReLU at 6.

``mobilenetv2``, of distillation (Tian et al. 2020): half the width, a stem that halves the resolution. Parameter names
are those of HobbitLong/RepDistiller.

``mobilenetv2_8x``, of robust distillation (IGDM, RSLAD): the full width, the image's resolution in the stem and an
eighth of it in the last map, and a projected shortcut where a block changes the channels but not the resolution.

A group ends in a linear convolution: map and preactivation are the same.
"""

from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, conv_bn, initialise_convolutions, repeat

EXPANSION = 6
# Expansion, channels at full width, blocks and stride of each group.
GROUPS = (
    (1, 16, 1, 1),
    (EXPANSION, 24, 2, 1),
    (EXPANSION, 32, 3, 2),
    (EXPANSION, 64, 4, 2),
    (EXPANSION, 96, 3, 1),
    (EXPANSION, 160, 3, 2),
    (EXPANSION, 320, 1, 1),
)
# The groups after which the features are shown: one map a resolution, two at the lowest but one.
SHOWN = (1, 2, 4, 6)
EMBEDDING = 1280


class InvertedResidual(nn.Module):
    """y = F(x), or x + F(x) where shapes agree; F = 1x1 expansion, 3x3 depthwise, 1x1 linear, with BatchNorm each.

    projected: at stride 1 also where only the channels differ, y = P(x) + F(x), P = 1x1 convolution and BatchNorm.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, *, projected: bool = False) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential(
            *conv_bn(inputs, inner, 1),
            nn.ReLU(),
            *conv_bn(inner, inner, 3, stride=stride, groups=inner),
            nn.ReLU(),
            *conv_bn(inner, outputs, 1),
        )
        self._residual = stride == 1 and (projected or inputs == outputs)
        projection = conv_bn(inputs, outputs, 1) if self._residual and inputs != outputs else ()
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv(x) if self._residual else self.conv(x)


class MobileNetV2(Network):
    """x [N, C, H, W] to logits [N, num_classes].

    width: what the channels of the paper are multiplied by. stem_stride: of the first convolution. projected: see
    :class:`InvertedResidual`.
    """

    def __init__(
        self,
        width: float = 0.5,
        *,
        stem_stride: int = 2,
        projected: bool = False,
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        widths = [int(32 * width), *(int(channels * width) for _, channels, _, _ in GROUPS)]
        self.conv1 = nn.Sequential(*conv_bn(in_channels, widths[0], 3, stride=stem_stride))
        self.blocks = nn.ModuleList()
        for (inputs, outputs), (expansion, _, count, stride) in zip(pairwise(widths), GROUPS, strict=True):
            block = partial(InvertedResidual, expansion=expansion, projected=projected)
            self.blocks.append(nn.Sequential(*repeat(block, inputs, outputs, count, stride)))
        self.conv2 = nn.Sequential(*conv_bn(widths[-1], EMBEDDING, 1))
        linear = nn.Linear(EMBEDDING, num_classes)
        self.classifier = nn.Sequential(linear)
        initialise_convolutions(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def with_features(self, x: Tensor) -> Features:
        stem = self.conv1(x)
        x = F.relu(stem)
        maps, preactivations = [x], [stem]
        for number, group in enumerate(self.blocks):
            x = group(x)
            if number in SHOWN:
                maps.append(x)
                preactivations.append(x)
        embedding = F.relu(self.conv2(x)).mean(dim=(2, 3))
        return Features(tuple(maps), tuple(preactivations), embedding, self.classifier(embedding))
