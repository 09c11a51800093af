"""Rows of a pass: how many there are, and those that several proposals of an image take."""

import pytest
import torch
from torch import nn

from fastadv import attacks
from fastadv.attacks.loop.row_queue import Begun, Queue, rows_in_a_pass
from fastadv.attacks.methods.square import SquareSearch
from fastadv.attacks.model.networks import Networks

RADII = {"linf": 0.1, "l2": 1.2, "l1": 4.0}


class Rowwise(nn.Module):
    """Images to 4 logits, the arithmetic on each the same in any batch; keeps how many images each pass had."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.passes, self.dtype = [], dtype

    def forward(self, x):
        self.passes.append(len(x))
        flat = x.double().flatten(1)
        places = torch.arange(flat.shape[1])
        return torch.stack([(flat * torch.cos(3 * flat + k * places)).sum(1) for k in range(4)], 1).to(self.dtype)


class Leaving:
    """A search whose rows claim at the evaluation that their radius says."""

    evaluations, made = 40, 1

    def __init__(self):
        self.widths = []

    def begin(self, rows):
        return {"x": rows.x0, "y": rows.y, "last": rows.eps, "number": torch.zeros_like(rows.eps)}

    def evaluate(self, state):
        self.widths.append(len(state["x"]))
        state["number"] = state["number"] + 1
        return state["number"] == state["last"]

    def step(self, state):
        pass


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def test_idle_rows_leave_when_an_eighth_stands_idle():
    search = Leaving()
    count = 16
    x, y = torch.rand(count, 3), torch.zeros(count, dtype=torch.int64)
    ages = torch.arange(1.0, count + 1)
    how = {"eps": ages, "sample_ids": torch.arange(count), "batch_size": count}
    queue = Queue(search, lambda images, classes: torch.ones(len(images), dtype=torch.bool), x, y, **how)
    queue.run()
    # One row is free after each pass: two of 16 and two of 14 make an eighth, as does any row of eight or fewer.
    assert search.widths == [16, 16, 14, 14, 12, 12, 10, 10, 8, 7, 6, 5, 4, 3, 2, 1]
    assert queue.copy == [0] * count
    assert queue.evaluations == sum(range(1, count + 1))


def test_rows_of_a_pass_on_a_cpu(one_thread, monkeypatch):
    cpu, full, half = torch.device("cpu"), torch.float32, torch.bfloat16
    assert [rows_in_a_pass(size, cpu, full) for size in (1, 32, 250)] == [1, 32, 32]
    assert [rows_in_a_pass(size, cpu, half) for size in (1, 64, 250)] == [1, 64, 64]
    assert rows_in_a_pass(250, torch.device("cuda"), half) == 250
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert rows_in_a_pass(250, cpu, full) == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attack", ["square", "fab", "apgd"])
def test_no_pass_is_wider(one_thread, attack, dtype):
    network, x = Rowwise(dtype), torch.rand(140, 3, 6, 6)
    with torch.no_grad():
        y = network(x).argmax(1)
    how = {"square": {"queries": 40}, "fab": {"steps": 2}, "apgd": {"steps": 2, "variant": "autoattack"}}[attack]
    network.passes.clear()
    getattr(attacks, attack)(network, x, y, eps=0.01, **how)
    clean, *others = network.passes
    widest = rows_in_a_pass(250, x.device, dtype)
    assert clean == 140
    assert widest / 2 < max(others) <= widest


@pytest.mark.parametrize("attack_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attack", ["square", "apgd-t"])
def test_the_passes_of_an_ensemble_are_as_wide(one_thread, attack, attack_dtype, monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    widths, x = [], torch.rand(20, 3, 6, 6)
    y = network(x).argmax(1)
    run = Networks.logits
    monkeypatch.setattr(Networks, "logits", lambda self, x, *more: widths.append(len(x)) or run(self, x, *more))
    evaluation = attacks.AutoAttack(network, x, y, eps=1e-6, version=[attack], attack_dtype=attack_dtype)
    widths.clear()
    for _ in range(3):
        evaluation.advance()
    rows = rows_in_a_pass(250, x.device, getattr(torch, attack_dtype))
    # 180 pairs of image and target in batches of one width, or as many queries of 20 images.
    assert set(widths) == {rows // 20 * 20 if attack == "square" else -(-180 // -(-180 // rows))}


@pytest.mark.parametrize("norm", RADII)
def test_several_proposals_at_once_are_the_search_one_by_one(norm):
    network, x = Rowwise(), torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        y = network(x).argmax(1)
    ids = torch.arange(5)
    begun = Begun(x, y, torch.full([5], RADII[norm] / 4), y, ids, torch.zeros_like(ids))

    def searched(rows, queries):
        search = SquareSearch(Networks(network), norm=norm, bounds=(0.0, 1.0), queries=queries, rows=rows, seed=2)
        state, first = search.begin(begun), torch.full([5], -1)
        while (state["made"] < search.evaluations).any():
            before = state["made"]
            claims = search.evaluate(state)
            assert torch.equal(before + search.made, state["made"])
            first = torch.where(claims & (first < 0), state["made"], first)
            search.step(state)
        assert (state["made"] == search.evaluations).all()
        return state["x"], state["margin"], first

    for queries in (0, 1, 70):
        alone, *several = (searched(rows, queries) for rows in (1, 17, 1000))
        for found in several:
            assert all(map(torch.equal, found, alone))
    assert (alone[2] > 1).any()
    assert (alone[2] < 0).any()


def test_fewer_passes_where_few_images_stand():
    network, x = Rowwise(), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        y = network(x).argmax(1)
    attacks.square(network, x, y, eps=1e-4, queries=200, batch_size=2)
    one_by_one = len(network.passes)
    network.passes.clear()
    attacks.square(network, x, y, eps=1e-4, queries=200, batch_size=16)
    assert 2 * len(network.passes) < one_by_one
    assert max(network.passes) == 16


def test_an_attack_that_looks_ahead_finds_the_images_that_one_by_one_does(monkeypatch):
    network, x = Rowwise(), torch.rand(9, 3, 8, 8)
    with torch.no_grad():
        y = network(x).argmax(1)
    found = []
    for ahead, batch_size in ((1, 250), (16, 250), (16, 20), (5, 4)):
        monkeypatch.setattr("fastadv.attacks.methods.square._AHEAD", ahead)
        found.append(attacks.square(network, x, y, eps=0.01, queries=150, seed=3, batch_size=batch_size))
    assert all(torch.equal(each, found[0]) for each in found)
    fell = (found[0] != x).flatten(1).any(1)
    assert fell.any()
    assert not fell.all()
