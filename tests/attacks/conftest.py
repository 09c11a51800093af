"""A small network with every kind of state an attack could disturb, and a batch for it."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from fastadv.attacks.loop import noise


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    torch.manual_seed(0)
    # Attacks without a seed count their calls: no test depends on which others ran before it.
    monkeypatch.setattr(noise, "_calls", itertools.count())


@pytest.fixture
def network(_seeded) -> nn.Sequential:
    """Images [N, 3, 6, 6] to 5 logits, in train mode, with BatchNorm statistics of its own."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 16, 5)
    )
    model[1].running_mean.uniform_(-0.2, 0.2)
    model[1].running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def images(_seeded) -> Tensor:
    x = torch.rand(6, 3, 6, 6)
    x[0, :, :2], x[1, :, :2] = 0.0, 1.0
    return x


@pytest.fixture
def labels(_seeded) -> Tensor:
    return torch.randint(0, 5, (6,))
