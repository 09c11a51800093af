"""Seeds that nobody gave: another at each call, on each rank and for each global seed, at no cost of random state."""

import itertools

import pytest
import torch
from torch import distributed

from fastadv.attacks import pgd, svgd
from fastadv.attacks.loop import noise


@pytest.mark.parametrize("attack", [pgd, svgd])
def test_calls_without_a_seed_differ_and_consume_nothing(attack, network, images, labels):
    random_state = torch.get_rng_state()
    first, second = (attack(network, images, labels, eps=0.1, steps=0) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_seed_of_a_call_follows_from_global_seed_call_and_rank(monkeypatch):
    def resolved(global_seed, call, rank):
        monkeypatch.setattr(noise, "_calls", itertools.count(call))
        monkeypatch.setattr(distributed, "is_initialized", lambda: rank is not None)
        monkeypatch.setattr(distributed, "get_rank", lambda: rank)
        torch.manual_seed(global_seed)
        return noise.resolve(None)

    cases = [(seed, call, rank) for seed in (0, 1, -1) for call in range(4) for rank in range(4)]
    assert len({resolved(*case) for case in cases}) == len(cases)
    assert resolved(1, 2, 3) == resolved(1, 2, 3)
    assert resolved(1, 2, None) == resolved(1, 2, 0)
    assert all(0 <= resolved(*case) < 2**64 for case in cases)


def test_a_seed_that_is_given_is_kept():
    tensor = torch.tensor(7)
    assert noise.resolve(7) == 7
    assert noise.resolve(tensor) is tensor
