"""What brings a student's map to the shape of a teacher's."""

from __future__ import annotations

from torch import Tensor, nn


def connector(source: Tensor, target: Tensor) -> nn.Sequential:
    """Convolution and BatchNorm from maps like ``source`` to maps like ``target``, both [N, C, H, W].

    The convolution is 3x3 with stride 2 where the source is twice as large, transposed 4x4 with stride 2 where it is
    half as large, else one that needs no padding.

    Raises ValueError where the source is smaller otherwise.
    """
    (height, width), size = source.shape[2:], tuple(target.shape[2:])
    inputs, outputs = source.shape[1], target.shape[1]
    convolution: nn.Module
    if (height, width) == (2 * size[0], 2 * size[1]):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif (2 * height, 2 * width) == size:
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    elif height >= size[0] and width >= size[1]:
        convolution = nn.Conv2d(inputs, outputs, (1 + height - size[0], 1 + width - size[1]))
    else:
        raise ValueError(
            "a map of the student must be at least as large as the teacher's or half its size, got"
            f" {height}x{width} for {size[0]}x{size[1]}"
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
