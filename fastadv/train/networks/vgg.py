"""VGG for 32x32 images as distillation compares it (Tian et al. 2020, after Simonyan and Zisserman 2015).

Five stages with BatchNorm; max pooling after the first three, global average pooling after the last, one linear layer.
Parameter names are those of HobbitLong/RepDistiller.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fastadv.distill import Features
from fastadv.train.networks.blocks import initialise_convolutions

WIDTHS = (64, 128, 256, 512, 512)
POOLED = 3


class Vgg(nn.Module):
    """x [N, C, H, W] to logits [N, num_classes]. convolutions: in each of the five stages."""

    def __init__(self, convolutions: Sequence[int], *, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        for number, (inputs, outputs, count) in enumerate(
            zip((in_channels, *WIDTHS), WIDTHS, convolutions, strict=False)
        ):
            self.add_module(f"block{number}", _stage(inputs, outputs, count))
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        initialise_convolutions(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits

    def with_features(self, x: Tensor) -> Features:
        preactivations: list[Tensor] = []
        maps: list[Tensor] = []
        for number in range(len(WIDTHS)):
            preactivations.append(self.get_submodule(f"block{number}")(x))
            maps.append(F.relu(preactivations[-1]))
            x = F.max_pool2d(maps[-1], 2) if number < POOLED else maps[-1]
        embedding = x.mean(dim=(2, 3))
        return Features(tuple(maps), tuple(preactivations), embedding, self.classifier(embedding))


def _stage(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """3x3 convolutions, each with BatchNorm, and a ReLU between two."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers[:-1])
