"""Two networks for 8x8 digits: a teacher, and a student small enough to need one."""

from torch import nn


def digits_cnn(*, num_classes: int, in_channels: int) -> nn.Module:
    """The teacher: three 3x3 convolutions with BatchNorm (16, 32, 64 channels), one pooling."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *block(in_channels, 16),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 64, num_classes),
    )


def digits_small(*, num_classes: int, in_channels: int) -> nn.Module:
    """The student: two strided 3x3 convolutions (8 and 16 channels) and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, num_classes),
    )
