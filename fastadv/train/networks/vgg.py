"""VGG for 32x32 images as distillation compares it (Tian et al. 2020, after Simonyan and Zisserman 2015).

Five stages with BatchNorm; max pooling after the first three, global average pooling after the last, one linear layer.
Parameter names are those of HobbitLong/RepDistiller.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import Network, Part, initialise_convolutions, run

WIDTHS = (64, 128, 256, 512, 512)


class Vgg(Network):
    """x [N, C, H, W] to logits [N, num_classes]. convolutions: in each of the five stages."""

    def __init__(self, convolutions: Sequence[int], *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _stage(inputs, outputs, count)
            for inputs, outputs, count in zip((in_channels, *WIDTHS), WIDTHS, convolutions, strict=False)
        )
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        initialise_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def with_features(self, x: Tensor) -> Features:
        def after_pooling(stage: nn.Module) -> Part:
            return lambda x: stage(F.max_pool2d(x, 2))

        pooled = map(after_pooling, (self.block1, self.block2, self.block3))
        return run(self.block0(x), [*pooled, self.block4], self.classifier)


def _stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """3x3 convolutions, each with BatchNorm, and a ReLU between two."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers[:-1])
