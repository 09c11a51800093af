"""What the attack's clock counts as the network's, on a clock that only moves when told to."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastadv.attacks import PGD
from fastadv.attacks.model import timed

FORWARD, BACKWARD, LOSS = 1.0, 10.0, 100.0


class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock):
        ctx.clock = clock
        clock.now += FORWARD
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.clock.now += BACKWARD
        return grad, None


class SlowNetwork(nn.Module):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def forward(self, x):
        return Slow.apply(x.flatten(1), self.clock) * 2


@pytest.fixture
def clock(monkeypatch):
    fake = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timed, "time", SimpleNamespace(perf_counter=lambda: fake.now))
    return fake


def test_passes_are_the_networks_and_the_rest_is_not(clock):
    def loss(logits):
        clock.now += LOSS
        return logits.square().sum(1)

    network = timed.TimedNetwork(SlowNetwork(clock), torch.device("cpu"))
    x = torch.rand(4, 1, 2, 3)
    attack = PGD(eps=0.1, steps=3, restarts=2, loss=loss, seed=0)
    found, seconds, inside = network.time(lambda: attack(network, x))
    # Three steps, and one forward pass more to choose among the restarts.
    assert inside == 4 * FORWARD + 3 * BACKWARD
    assert seconds == inside + 4 * LOSS
    assert torch.equal(found, attack(SlowNetwork(clock), x))


def test_each_time_counts_anew(clock):
    network = timed.TimedNetwork(SlowNetwork(clock), torch.device("cpu"))
    x = torch.rand(2, 6)
    for _ in range(2):
        assert network.time(lambda: network(x))[1:] == (FORWARD, FORWARD)
