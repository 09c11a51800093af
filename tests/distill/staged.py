"""Two networks that show features, whose maps differ in size and channels."""

from torch import Tensor, nn
from torch.nn.functional import relu

from fastadv.distill import Features

CLASSES = 4


class Staged(nn.Module):
    """A stem and two stages of convolution, BatchNorm and ReLU; it remembers the rows of each forward pass."""

    def __init__(self, *stages: tuple[int, int]) -> None:
        super().__init__()
        widths = [1, *(width for width, _ in stages)]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 3, stride, padding=1), nn.BatchNorm2d(width))
            for inputs, (width, stride) in zip(widths, stages, strict=False)
        )
        self.fc = nn.Linear(widths[-1], CLASSES)
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.with_features(x).logits

    def with_features(self, x: Tensor) -> Features:
        self.rows.append(len(x))
        preactivations: list[Tensor] = []
        maps = [x]
        for stage in self.stages:
            preactivations.append(stage(maps[-1]))
            maps.append(relu(preactivations[-1]))
        embedding = maps[-1].mean(dim=(2, 3))
        return Features(tuple(maps[1:]), tuple(preactivations), embedding, self.fc(embedding))


def staged_student() -> Staged:
    """Maps of 8, 4 and 4 pixels a side for images of 8."""
    return Staged((3, 1), (4, 2), (5, 1))


def staged_teacher() -> Staged:
    """Maps of 8, 8 and 4 pixels a side for images of 8."""
    return Staged((4, 1), (6, 1), (8, 2))
