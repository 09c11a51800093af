"""Layers that bring a student's feature map to the shape of a teacher's."""

from __future__ import annotations

from torch import Tensor, nn


def connector(student: Tensor, teacher: Tensor) -> nn.Module:
    """Return :func:`regressor`, or the identity where both maps have the same shape."""
    return nn.Identity() if student.shape[1:] == teacher.shape[1:] else regressor(student, teacher)


def regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    """Return a convolution and BatchNorm from maps of the shape of ``student`` [N, C, H, W] to that of ``teacher``.

    The convolution is 3x3 of stride 2 where the student's map is twice as large, transposed 4x4 of stride 2 where it is
    half as large, otherwise unpadded, of the size that leaves the teacher's.

    Raises ValueError where the student's map is smaller otherwise.

    Source: the regressor of RepDistiller, without its ReLU: a pre-activation has two signs.
    """
    inputs, outputs = student.shape[1], teacher.shape[1]
    ours, theirs = student.shape[2:], teacher.shape[2:]
    convolution: nn.Module
    if all(own == 2 * goal for own, goal in zip(ours, theirs, strict=True)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
    elif all(2 * own == goal for own, goal in zip(ours, theirs, strict=True)):
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    elif all(own >= goal for own, goal in zip(ours, theirs, strict=True)):
        height, width = (1 + own - goal for own, goal in zip(ours, theirs, strict=True))
        convolution = nn.Conv2d(inputs, outputs, (height, width))
    else:
        raise ValueError(
            f"student must have maps as large as the teacher's {list(theirs)}, half or twice as large, got {list(ours)}"
        )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
