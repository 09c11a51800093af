"""PGDL2 accelerated, with what it adds to the length of a gradient."""

import pytest
import torch
from torch import nn

from fastadv.integrations.torchattacks import accelerate


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).eval()


@pytest.mark.parametrize("added", [1e-10, 1e-2, 0.0, torch.tensor(1e-2)])
def test_another_number_is_not_ignored(torchattacks, added, network):
    x, y = torch.rand(7, 3, 4, 4), torch.arange(7)
    attack = torchattacks.PGDL2(network, eps=0.5, alpha=0.1, steps=3, random_start=False, eps_for_division=added)
    expected = attack(x, y)
    with accelerate():
        found = attack(x, y)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_gradient_that_vanishes_makes_a_whole_step_as_the_docstring_says(torchattacks, network):
    x = torch.full((2, 3, 4, 4), 0.5)
    y = network(x).argmax(1)
    with torch.no_grad():
        network[1].bias[y[0]] += 28  # a gradient of about 1e-12
    attack = torchattacks.PGDL2(network, eps=0.5, alpha=0.1, steps=1, random_start=False)
    theirs = (attack(x, y) - x).flatten(1).norm(dim=1)
    with accelerate():
        ours = (attack(x, y) - x).flatten(1).norm(dim=1)
    assert theirs.max() < 0.05
    torch.testing.assert_close(ours, torch.full([2], 0.1), atol=1e-5, rtol=0)
