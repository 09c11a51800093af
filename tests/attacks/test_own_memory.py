"""A loop steps in memory of its own: one tensor for all iterates, and never the caller's."""

from __future__ import annotations

import pytest
import torch

from benchmarks.opponents import loops
from benchmarks.suite.measure import peak_bytes
from fastadv import attacks

EPS = 8 / 255


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 7 * 7, 5)
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def batch():
    return torch.rand(64, 3, 16, 16), torch.arange(64) % 5


@pytest.mark.parametrize("keywords", [{}, {"norm": "l2"}, {"random_start": False}, {"best": True}, {"restarts": 2}])
def test_all_iterates_lie_in_one_place(network, batch, keywords):
    x, y = batch
    clean, places = x.clone(), []
    network.register_forward_pre_hook(lambda _, inputs: places.append(inputs[0].data_ptr()))
    found = attacks.pgd(network, x, y, eps=EPS, steps=3, seed=0, **keywords)
    assert len(set(places)) == 1
    assert places[0] != x.data_ptr()
    assert torch.equal(x, clean)
    assert not torch.equal(found, clean)


def test_rows_that_stop_early_stay_where_they_are(network, batch):
    x, y = batch
    each = torch.arange(len(x)) % 3
    found = attacks.pgd(network, x, y, eps=EPS, step_size=EPS / 4, steps=each, random_start=False)
    for steps in range(3):
        alone = attacks.pgd(network, x, y, eps=EPS, step_size=EPS / 4, steps=steps, random_start=False)
        assert torch.equal(found[each == steps], alone[each == steps])


@pytest.mark.parametrize("attack", ["pgd", "pgd l2"])
def test_no_more_memory_than_the_loop_that_people_write(network, batch, attack):
    x, y = batch
    how = {"step_size": EPS / 4, "steps": 4, "random_start": False}
    ours, plain = {
        "pgd": (
            lambda: attacks.pgd(network, x, y, eps=EPS, **how),
            lambda: loops.pgd_linf(network, x, y, EPS, EPS / 4, 4),
        ),
        "pgd l2": (
            lambda: attacks.pgd(network, x, y, eps=0.5, norm="l2", **how),
            lambda: loops.pgd_l2(network, x, y, 0.5, EPS / 4, 4),
        ),
    }[attack]
    for call in (ours, plain):
        call()
    cpu = torch.device("cpu")
    assert peak_bytes(ours, cpu) <= 1.01 * peak_bytes(plain, cpu)
