"""A student and a teacher with BatchNorm, and a batch for them."""

import pytest
import torch
from torch import Tensor, nn


class Counting(nn.Module):
    """A network that counts its forward passes and remembers the rows of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 4)
        )
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.layers(x)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def student(_seeded) -> Counting:
    return Counting(4)


@pytest.fixture
def teacher(student) -> Counting:
    return Counting(8)


@pytest.fixture
def batch(_seeded) -> tuple[Tensor, Tensor]:
    return torch.rand(5, 1, 8, 8), torch.randint(0, 4, (5,))
