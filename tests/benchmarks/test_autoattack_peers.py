"""AutoAttack beside pyautoattack: a study that was stopped goes on, and its page says what differs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.studies import autoattack_peers as study
from fastadv.train.data.splits import Split
from fastadv.train.networks.classifier import Classifier
from fastadv.train.robustness.attack_split import PreparedAttack

FIRST, OTHER = "pyautoattack, seed 0", "fastadv, float32"


@pytest.fixture
def prepared():
    """Ten small images, and a network that says the labels of all but the last."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        network = Classifier(layers, (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
        images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    labels = network(images / 255).argmax(1)
    labels[-1] = (labels[-1] + 1) % 10
    return PreparedAttack(network, None, SimpleNamespace(test=Split(images, labels)), len(labels), weights={})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "SHARD", 6)
    folder = tmp_path / "results"
    folder.mkdir()
    about = dict.fromkeys(
        ("checkpoint", "norm", "eps", "threads", "machine", "instructions", "torch", "pyautoattack"), "?"
    )
    (folder / "about.json").write_text(json.dumps(about))
    return folder


def breaking(network, which, calls=None):
    """A side whose every attack moves the images with these identities to where the network says another class."""

    def run(_, x, y, ids, attack, norm, eps, clock):
        if calls is not None:
            calls.append((attack, ids.tolist()))
            if len(calls) == 3:
                raise KeyboardInterrupt
        if clock is not None:
            study.clocked(network, clock)(x)
        others = torch.rand(1000, *x.shape[1:], generator=torch.Generator().manual_seed(1))
        said = network(others).argmax(1)
        found = x.clone()
        for row in (row for row, place in enumerate(ids.tolist()) if place in which):
            found[row] = others[said != y[row]][0]
        return found

    return run


def shards(side, folder, prepared):
    for start in (0, 6):
        study._run_shard(side, folder, prepared, start, "linf", 1.0)


def test_a_study_goes_on_after_the_last_attack_and_names_the_images(folder, prepared, monkeypatch):
    network, calls = prepared.network, []
    sides = {FIRST: breaking(network, {1, 7}), OTHER: breaking(network, {1, 2}, calls)}
    monkeypatch.setattr(study, "SIDES", sides)
    shards(FIRST, folder, prepared)
    with pytest.raises(KeyboardInterrupt):
        shards(OTHER, folder, prepared)
    assert calls == [("apgd-ce", [0, 1, 2, 3, 4, 5]), ("apgd-t", [0, 3, 4, 5]), ("fab-t", [0, 3, 4, 5])]
    shards(OTHER, folder, prepared)
    assert [call[0] for call in calls[3:]] == ["fab-t", "square", *study.ATTACKS]
    assert calls[5:] == [(attack, [6, 7, 8]) for attack in study.ATTACKS]
    done = len(calls)
    shards(OTHER, folder, prepared)
    assert len(calls) == done
    page = study.page(folder)
    assert f"{OTHER} against {FIRST}: +0.00 points" in page
    assert "Its 70.00 % are within 0.3 points of the 70.00 % of pyautoattack's seeds" in page
    assert "broken by the latter alone: images [7], by the former alone: [2]" in page
    cells = [cell.strip() for line in page.splitlines() if line.startswith(f"| {OTHER}") for cell in line.split("|")]
    assert cells[2:6] == ["10", "90.00", "70.00", "70.00"]


def test_a_verdict_is_equal_where_it_lies_between_those_of_their_seeds():
    theirs = {FIRST: [True, True, False, False], "pyautoattack, seed 1": [False] * 4}

    def said(mine):
        return list(study._differences({**theirs, OTHER: mine}, [0]))[-1]

    between = "Its 25.00 % are within 0.3 points of the 0.00 to 50.00 % of pyautoattack's seeds"
    assert between in said([True, False, False, False])
    assert "Its 75.00 % are outside of 0.3" in said([True, True, True, False])


def test_beside_other_work_nothing_is_timed(folder, prepared, monkeypatch):
    about = json.loads((folder / "about.json").read_text())
    untimed = {name: value for name, value in about.items() if name not in ("machine", "instructions", "threads")}
    (folder / "about.json").write_text(json.dumps(untimed))
    monkeypatch.setattr(study, "SIDES", {side: breaking(prepared.network, {1}) for side in (FIRST, OTHER)})
    for side in study.SIDES:
        study._run_shard(side, folder, prepared, 0, "linf", 1.0, timed=False)
    page = study.page(folder)
    assert f"{OTHER} against {FIRST}: +0.00 points" in page
    assert "Verdicts alone" in page
    assert "seconds" not in page


def test_both_packages_are_timed_in_the_network_and_beside_it(folder, prepared, pyautoattack, monkeypatch):
    monkeypatch.setattr(study, "ATTACKS", ("apgd-ce",))
    for side in study.SIDES:
        study._run_shard(side, folder, prepared, 0, "l2", 0.02)
        stored = json.loads((folder / f"{study._slug(side)}-00000-apgd-ce.json").read_text())
        assert 0 < stored["seconds_in_network"] < stored["seconds"]
        assert 0 < stored["largest_distance"] <= 0.02 * (1 + 1e-6)
        assert 0 < sum(stored["stands"]) < sum(stored["clean"]) == 6


def test_untimed_the_published_package_attacks_the_same_network_folded(folder, prepared, pyautoattack, monkeypatch):
    """Folding changes logits by rounding alone, so the same images stand."""
    monkeypatch.setattr(study, "ATTACKS", ("apgd-ce", "fab-t"))
    normalised = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    prepared.network.network = normalised.eval().requires_grad_(False)
    labels = prepared.network(prepared.dataset.test.images / 255).argmax(1)
    prepared.dataset.test = Split(prepared.dataset.test.images, labels)
    stands = []
    for timed in (True, False):
        for file in folder.glob("pyautoattack*"):
            file.unlink()
        study._run_shard(FIRST, folder, prepared, 0, "l2", 0.05, timed=timed)
        files = [folder / f"{study._slug(FIRST)}-00000-{attack}.json" for attack in study.ATTACKS]
        stands.append([json.loads(file.read_text())["stands"] for file in files])
    assert stands[0] == stands[1]
    assert 0 < sum(stands[0][-1]) < 6


def test_results_of_another_run_are_not_gone_on_with(tmp_path):
    study._check_same(tmp_path / "about.json", {"eps": "1/255", "threads": 1})
    study._check_same(tmp_path / "about.json", {"eps": "1/255", "threads": 1})
    with pytest.raises(SystemExit, match="eps 1/255 there, 2/255 here"):
        study._check_same(tmp_path / "about.json", {"eps": "2/255", "threads": 1})


def test_memory_that_was_taken_before_counts_again():
    """Blocks that the allocator keeps when they are freed, taken twice."""

    def take():
        before = study.reset_peak()
        blocks = [torch.ones(2**14) for _ in range(2000)]
        grown = study.resident("VmHWM") - before
        del blocks
        return grown

    assert min(take(), take()) > 100


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_torchattacks_runs_every_attack(prepared, torchattacks, norm):
    x, y = prepared.dataset.test.images / 255, prepared.dataset.test.labels
    for attack in study.ATTACKS:
        found = study.torchattacks(prepared.network, x, y, torch.arange(len(x)), attack, norm, 0.05, None)
        moved = (found.double() - x.double()).flatten(1).norm(study.ORDER[norm], dim=1)
        assert 0 < moved.max() <= 0.05 * (1 + 1e-5)
        assert found.min() >= 0
        assert found.max() <= 1


def test_a_side_that_lacks_a_norm_is_left_out_there(folder, prepared):
    study._run_shard("torchattacks", folder, prepared, 0, "l1", 1.0)
    assert [file.name for file in folder.iterdir()] == ["about.json"]
