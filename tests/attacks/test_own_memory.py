"""A loop steps in memory of its own: one tensor for all iterates, and never the caller's."""

from __future__ import annotations

from functools import partial

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
    if keywords == {"random_start": False}:
        # Images in the box are where the loop begins, which must not step in them.
        assert places.pop(0) == x.data_ptr()
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


@pytest.mark.parametrize("attack", [attacks.pgd, attacks.mi_fgsm, attacks.apgd])
def test_no_step_gives_images_of_its_own(network, batch, attack):
    x, y = batch
    found = attack(network, x, y, eps=EPS, steps=0, random_start=False)
    assert torch.equal(found, x)
    assert found.data_ptr() != x.data_ptr()


def test_images_a_little_outside_of_the_box_are_shown_inside(network, batch):
    x, y = batch
    x[0, 0, 0, 0], shown = 1 + 5e-5, []
    network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].max().item()))
    attacks.pgd(network, x, y, eps=EPS, steps=1, random_start=False)
    assert shown == [1.0]


OURS = {
    "fgsm": lambda network, x, y: attacks.fgsm(network, x, y, eps=EPS),
    "pgd": lambda network, x, y: attacks.pgd(network, x, y, eps=EPS, step_size=EPS / 4, steps=4, random_start=False),
    "pgd l2": lambda network, x, y: attacks.pgd(
        network, x, y, eps=0.5, norm="l2", step_size=EPS / 4, steps=4, random_start=False
    ),
    "mi_fgsm": lambda network, x, y: attacks.mi_fgsm(network, x, y, eps=EPS, step_size=EPS / 4, steps=4),
    "vat": lambda network, x, y: attacks.vat(network, x, eps=0.5, xi=1.0, seed=0),
}
PLAIN = {
    "fgsm": lambda network, x, y: loops.fgsm(network, x, y, EPS),
    "pgd": lambda network, x, y: loops.pgd_linf(network, x, y, EPS, EPS / 4, 4),
    "pgd l2": lambda network, x, y: loops.pgd_l2(network, x, y, 0.5, EPS / 4, 4),
    "mi_fgsm": lambda network, x, y: loops.mi_fgsm(network, x, y, EPS, EPS / 4, 4),
    "vat": lambda network, x, y: loops.vat(network, x, 0.5, 1.0),
}


@pytest.mark.parametrize("attack", OURS)
def test_no_more_memory_than_the_loop_that_people_write(network, batch, attack):
    calls = [partial(call, network, *batch) for call in (OURS[attack], PLAIN[attack])]
    for call in calls:
        call()
    ours, plain = (peak_bytes(call, torch.device("cpu")) for call in calls)
    assert ours <= 1.01 * plain
