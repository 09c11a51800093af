"""The generator of data-free distillation: noise to images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ImageGenerator(nn.Module):
    """Noise [N, latent] to images [N, C, H, W], with the layers of DFAD's generator.

    A linear layer to 2 width maps of a quarter of the height and width, and BatchNorm; twice: nearest-neighbour
    upsampling by 2, 3x3 convolution (to 2 width, then to width maps), BatchNorm, LeakyReLU of slope 0.2; a 3x3
    convolution to the image's channels, tanh, and BatchNorm without scale and shift.

    So the last layer gives every channel mean 0 and variance 1 over the batch, as a data set's normalisation does, and
    the published networks read it as it is. Here networks take pixels and normalise them first: the image is ``mean +
    std g``, which a normalisation by the same figures turns back into g. As published, it is not clamped to [0, 1].

    Args:
        shape: (C, H, W) of the images, H and W multiples of 4.
        latent: elements of the noise of an image.
        width: maps of the last hidden layer.
        mean, std: one value a channel, or one for all: those of the networks' normalisation.

    Raises ValueError where shape is none of images, or mean or std do not fit it.

    Source: Fang et al., "Data-free adversarial distillation", 2019, and its published code.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        latent: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        if len(shape) != 3 or shape[0] < 1 or any(side < 4 or side % 4 for side in shape[1:]):
            raise ValueError(f"x must have images [C, H, W], H and W multiples of 4, got {list(shape)}")
        channels, wide, quarter = shape[0], 2 * width, (shape[1] // 4, shape[2] // 4)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} must have one value or one a channel, {channels}, got {list(values)}")
        self.layers = nn.Sequential(
            nn.Linear(latent, wide * quarter[0] * quarter[1]),
            nn.Unflatten(1, (wide, *quarter)),
            nn.BatchNorm2d(wide),
            *_doubled(wide, wide),
            *_doubled(wide, width),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.mean + self.std * self.layers(z)


def _doubled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)
