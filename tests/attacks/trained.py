"""A small network that has learned the digits of scikit-learn, and test images, for the effect of an attack."""

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class Trained(NamedTuple):
    """network: images [N, 1, 8, 8] to 10 logits, in eval mode; x, y: test images of which it gets most right."""

    network: nn.Module
    x: Tensor
    y: Tensor


@functools.cache
def trained() -> Trained:
    """Train the network, in a second, once for all tests that ask for it."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            cross_entropy(network(images[:1200]), labels[:1200]).backward()
            optimizer.step()
    return Trained(network.eval().requires_grad_(False), images[1200:1500], labels[1200:1500])


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of images classified as ``y``, in points; of several candidates [N, n, ...] all have to be."""
    candidates = x if x.dim() > 4 else x[:, None]
    with torch.no_grad():
        right = torch.stack([network(candidate).argmax(1) == y for candidate in candidates.unbind(1)])
    return 100 * right.all(0).double().mean().item()
