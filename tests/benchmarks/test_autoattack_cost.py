"""The estimate of AutoAttack's cost: which passes are counted, what one takes, and hours from both."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from torch import nn

from benchmarks.studies import autoattack_cost as study
from benchmarks.studies.autoattack_cost import BACKWARD, FORWARD, WEIGHTS, Found
from benchmarks.suite.results import FOLDER
from fastadv.attacks.methods import autoattack
from tests.attacks.small_network import trained

STEPS, QUERIES, TARGETS = 4, 6, 3


@pytest.fixture
def short(monkeypatch):
    """Few steps, queries and targets."""
    monkeypatch.setattr(autoattack, "_STEPS", STEPS)
    monkeypatch.setattr(autoattack, "_QUERIES", QUERIES)
    monkeypatch.setattr(autoattack, "_TARGETS", TARGETS)


@pytest.fixture
def short_published(pyautoattack, monkeypatch):
    """The same of pyautoattack."""

    def shorten(attack, version):
        attack.attacks_to_run = list(study.ATTACKS)
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = STEPS
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = TARGETS
        attack.square.n_queries = QUERIES

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", shorten)


def right():
    """A network, and eight images that it classifies right."""
    network, x, y = trained()
    at = (network(x).argmax(1) == y).nonzero().flatten()[:8]
    assert len(at) == 8
    return network, x[at], y[at]


def per_image(found, images=8):
    return {name: {kind: count / images for kind, count in passes.items()} for name, passes in found.passes.items()}


def test_what_images_that_stand_cost_here(short):
    network, x, y = right()
    found = study.ours(network, x, y, eps=1e-7, batch_size=4)
    assert found.clean == found.robust == 1
    passes = per_image(found)
    assert passes["apgd-ce"] == {FORWARD: STEPS + 1, BACKWARD: STEPS + 1}
    assert passes["apgd-t"] == {FORWARD: TARGETS * (STEPS + 1), BACKWARD: TARGETS * (STEPS + 1)}
    assert passes["fab-t"] == {FORWARD: TARGETS * (2 * STEPS + 1), BACKWARD: TARGETS * STEPS}
    assert passes["square"] == {FORWARD: QUERIES + 1}
    assert set(passes[study.REST]) == {FORWARD}


def test_what_they_cost_as_published(short_published):
    network, x, y = right()
    found = study.theirs(network, x, y, eps=1e-7, batch_size=4)
    assert found.clean == found.robust == 1
    passes = per_image(found)
    assert passes["apgd-ce"][BACKWARD] == STEPS + 1 <= passes["apgd-ce"][FORWARD]
    assert passes["apgd-t"][BACKWARD] == TARGETS * (STEPS + 1) <= passes["apgd-t"][FORWARD]
    # Its backward() reaches the weights.
    assert passes["fab-t"][WEIGHTS] == TARGETS * STEPS
    assert passes["fab-t"][BACKWARD] == 0
    assert passes["fab-t"][FORWARD] >= 2 * TARGETS * STEPS
    assert passes["square"][FORWARD] >= QUERIES + 1


def test_images_that_fall_cost_less(short):
    network, x, y = right()
    far = study.ours(network, x, y, eps=0.5, batch_size=4)
    assert far.robust < 1
    passes = per_image(far)
    assert passes["square"].get(FORWARD, 0) < QUERIES + 1
    assert passes["apgd-ce"][FORWARD] < STEPS + 1


def test_a_mixture_has_the_shares_that_were_asked_for(short):
    network, x, y = trained()
    eps = 0.05
    x, y = study.mixture(network, x, y, eps=eps, count=10, clean=0.8, robust=0.5)
    found = study.ours(network, x, y, eps=eps, batch_size=5)
    assert (len(x), found.clean) == (10, pytest.approx(0.8))
    assert found.robust == pytest.approx(0.5)
    with pytest.raises(ValueError, match="x must hold 50 images that stand"):
        study.mixture(network, x, y, eps=eps, count=100, clean=0.8, robust=0.5)


def test_operations_of_each_kind_of_pass():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3))
    forward = 2 * (12 * 5 + 5 * 3)
    assert study.operations(network, (3, 2, 2)) == {FORWARD: forward, BACKWARD: forward, WEIGHTS: 2 * forward}


def test_hours_are_passes_times_operations_over_the_rate():
    passes = {name: Counter({FORWARD: 20, BACKWARD: 10}) for name in study.ATTACKS}
    each = {FORWARD: 10**10, BACKWARD: 2 * 10**10, WEIGHTS: 4 * 10**10}
    found = {"pyautoattack": Found(passes, 0.9, 0.6), "fastadv": Found(passes, 0.9, 0.6)}
    content = study.summary(found, each, images=10)
    side = content["sides"]["fastadv"]
    assert side["passes_per_image"]["square"] == {FORWARD: 2, BACKWARD: 1, WEIGHTS: 0}
    flops = study.TEST_IMAGES * len(study.ATTACKS) * (2 * 10**10 + 2 * 10**10)
    rate = study.RATES["TF32"]
    assert side["hours"]["TF32"] == pytest.approx(
        [flops / (held * rate.peak * 3.6e15) for held in (rate.high, rate.low)]
    )
    assert "bfloat16" in side["hours"]
    assert "bfloat16" not in content["sides"]["pyautoattack"]["hours"]
    how = {"eps": 0.1, "batch_size": 5, "pyautoattack": "1", "torch": "2", "command": "the command"}
    text = study.page(content | how)
    assert "Nothing was measured on a GPU" in text
    assert "| fastadv      | square  | 2.0" in text


def test_the_committed_page_is_of_the_committed_counts():
    committed = FOLDER / "autoattack-cost" / "wrn-28-10-h100.json"
    assert committed.with_suffix(".md").read_text() == study.page(json.loads(committed.read_text()))
