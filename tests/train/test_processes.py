"""Two processes that torchrun started train what one does."""

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv.attacks.methods import autoattack as ensemble
from fastadv.train.data import datasets
from fastadv.train.data.augment import EpochPlan
from fastadv.train.data.splits import subset, to_pixels
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.runtime.metrics import read_metrics
from tests.train import processes_train


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("processes_train.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([*command, script, folder], capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("rank 0 of 2 speaks") == finished.stdout.count("speaks") == 1
    assert finished.stdout.count("report, pictures, metrics and weights") == 1
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    processes_train.train_jobs(folder)
    return folder


def weights(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


@pytest.mark.parametrize("job", ["ce", "kd", "tald"])
def test_without_batch_statistics_the_losses_are_those_of_one_process(job, together, alone):
    """Batches of 51, 51 and 48 images: the two processes have 26 and 25 of the first two."""
    found, expected = (read_metrics(folder / job, "train") for folder in (together, alone))
    assert len(found) == len(expected) == 6
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            # The repulsion is a median over images: that of each half is reported, averaged.
            if name not in ("kind", "repulsion"):
                assert mine[name] == pytest.approx(value, rel=2e-5), name
    for name, value in weights(alone / job).items():
        torch.testing.assert_close(weights(together / job)[name], value, atol=2e-6, rtol=0)


def test_batch_statistics_are_those_of_each_half(digits, together):
    """Against a plain loop that sends the halves through the network one after the other."""
    config = processes_train.resolve(flags=processes_train.FLAGS)
    train = subset(digits.train, 150, seed=0)
    model = build_classifier(config.student, config, digits, seed=0).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    losses = []
    for step in range(6):
        plan = EpochPlan.draw(150, augmentation="none", seed=0, epoch=step // 3)
        chosen = plan.order[step % 3 * 51 : (step % 3 + 1) * 51]
        before = copy.deepcopy(dict(model.named_buffers()))
        optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * step / 6)) / 2
        optimizer.zero_grad()
        mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in before.items()}
        loss_of_batch = 0.0
        for half in chosen.tensor_split(2):
            for name, value in model.named_buffers():
                value.copy_(before[name])
            share = len(half) / len(chosen)
            loss = nn.functional.cross_entropy(model(to_pixels(train.images[half])), train.labels[half])
            (loss * share).backward()
            loss_of_batch += share * loss.item()
            for name, value in model.named_buffers():
                mean[name] += share * value.double()
        for name, value in model.named_buffers():
            value.copy_(mean[name].round() if value.dtype is torch.int64 else mean[name])
        optimizer.step()
        losses.append(loss_of_batch)
    assert [row["loss"] for row in read_metrics(together / "norm", "train")] == pytest.approx(losses, rel=2e-5)
    for name, value in weights(together / "norm").items():
        torch.testing.assert_close(value, model.network.state_dict()[name], atol=5e-6, rtol=0)


def test_an_adversary_without_images_trains_in_step(together, alone):
    found, expected = (read_metrics(folder / "noise", "train") for folder in (together, alone))
    assert len(found) == len(expected) == 6
    assert all(row["adversary_loss"] != 0 for row in found)
    # Each process draws noise of its own, so that these are other batches than those of one process.
    assert found[0]["loss"] != pytest.approx(expected[0]["loss"], rel=1e-4)
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=0.5)


def test_evaluation_in_parts_is_exact(together, digits):
    """500 test images in batches of 90: the processes have 3 batches each, the last of 50."""
    facts = [json.loads((together / f"facts-{rank}.json").read_text()) for rank in (0, 1)]
    assert facts[0]["accuracy"] == facts[1]["accuracy"]
    config = processes_train.resolve(flags=processes_train.FLAGS)
    student = build_classifier(config.student, config, digits, seed=0)
    student.network.load_state_dict(weights(together / "noise"))
    assert processes_train.evaluate(student, digits.test, config) == facts[0]["accuracy"]
    assert 0 < facts[0]["accuracy"]["pgd"] < facts[0]["accuracy"]["clean"]


def test_a_state_that_differs_between_processes_is_refused(together, alone):
    for rank in (0, 1):
        facts = json.loads((together / f"facts-{rank}.json").read_text())
        assert facts["remembers"] == (
            "CheckpointError: test: method.memory are not the same in all 2 processes; train Remembers in one process"
        )
    assert json.loads((alone / "facts-0.json").read_text())["remembers"] == "nothing was raised"


def test_what_the_first_process_says_holds_for_all(together):
    for rank in (0, 1):
        facts = json.loads((together / f"facts-{rank}.json").read_text())
        assert facts["raised"] == "ConfigError: in the first process"
        assert facts["told"] == 0


def test_a_whole_run_says_how_many_processes_made_it(together):
    assert "- Processes: 2" in (together / "run" / "report.md").read_text()
    assert (together / "run" / "kd-seed0" / "result.json").exists()


def test_autoattack_gives_the_verdict_of_one_process(together, tmp_path, monkeypatch):
    """By the attack command, and at the end of a training; each process had every second image."""
    monkeypatch.setattr(ensemble, "_STEPS", processes_train.STEPS)
    monkeypatch.setattr(ensemble, "_QUERIES", processes_train.QUERIES)
    student = together / "run" / "kd-seed0"
    assert processes_train.attack(tmp_path / "alone", student / "weights.pt") == 0
    expected = json.loads((tmp_path / "alone" / "result.json").read_text())
    assert 0 < expected["robust"]["correct"] < expected["clean"]["correct"]
    for folder in (together / "attack", student / "attack"):
        assert len(list((folder / "parts").glob("*.pt"))) == 2
        found = json.loads((folder / "result.json").read_text())
        for name in ("images", "clean", "robust", "broken_by", "classes"):
            assert found[name] == expected[name], name
        counts = [[stage[name] for name in ("attack", "attacked", "broken")] for stage in found["stages"]]
        assert counts == [[stage[name] for name in ("attack", "attacked", "broken")] for stage in expected["stages"]]
        assert found["largest_distance"] == pytest.approx(expected["largest_distance"], abs=1e-6)
    found = json.loads((student / "result.json").read_text())["attack"]
    assert found == {"name": "autoattack", "images": processes_train.ATTACKED, **expected["robust"]}


def test_processes_wait_for_each_other_for_days(monkeypatch):
    """Shares of an evaluation may differ by hours."""
    given = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **how: given.update(how))
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda: None)
    with processes_train.joined("cpu"):
        pass
    assert given["timeout"].days >= 7


def test_no_thread_of_the_group_outlives_it(together):
    """One that did might ask a finished interpreter for its lock, which aborts the process."""
    for rank in range(2):
        threads = json.loads((together / f"threads-{rank}.json").read_text())
        assert [name for name in threads if "gloo" in name] == []
