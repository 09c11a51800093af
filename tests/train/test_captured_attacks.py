"""Training with the attacks captured: the graphs of the CPU's stand-in, and what is said where there are none."""

import json
import warnings

import pytest
import torch

from fastadv.attacks import captured
from fastadv.distill import ARD, BSS, IGDM, PGDAT, RSLAD, TALD, TRADES, CrossEntropy
from fastadv.train.cli import main
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.metrics import read_metrics
from tests.attacks.recorded import record_on_the_cpu

METHODS = {
    "tald": lambda: TALD(steps=2, eps=0.1, weight=0.5),
    "tald released": lambda: TALD(variant="released", eps=0.1, weight=0.5, bounds=None, images=8),
    "bss": lambda: BSS(steps=2, step_size=0.4, attack_size=8),
    "pgd-at": lambda: PGDAT(steps=2),
    "pgd-at on a copy": lambda: PGDAT(steps=2, attack_mode="frozen-bfloat16"),
    "trades": lambda: TRADES(steps=2),
    "ard in train mode": lambda: ARD(steps=2),
    "rslad": lambda: RSLAD(steps=2),
    "igdm over adaad": IGDM,
}


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def make_trainer(digits, folder, method, **flags):
    small = {"epochs": "2", "batch_size": "40", "log_steps": "1", "eval_steps": "1", "eval_samples": "20"}
    config = resolve(flags={**small, "tensorboard": False, **flags})
    return Trainer(
        model=build_classifier("digits_small", config, digits, seed=0),
        method=method,
        teacher=build_classifier("digits_cnn", config, digits, seed=1).eval().requires_grad_(False),
        train=subset(digits.train, 100, seed=0),
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", METHODS)
def test_the_losses_are_those_of_the_eager_loop(digits, tmp_path, monkeypatch, name):
    make_trainer(digits, tmp_path / "eager", METHODS[name]()).fit()
    graphs = record_on_the_cpu(monkeypatch)
    make_trainer(digits, tmp_path / "captured", METHODS[name](), capture=True).fit()
    rows = [read_metrics(tmp_path / folder, "train") for folder in ("eager", "captured")]
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]
    # Batches of 40, 40 and 20 images; of the smaller one TALD and BSS attack as many.
    assert len(graphs) == (1 if name in ("tald released", "bss") else 2)


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to capture on")
@pytest.mark.parametrize("name", METHODS)
def test_the_losses_on_a_device_are_those_of_the_eager_loop(tmp_path, name):
    digits = datasets.load("digits", device="cuda")
    for capture in (False, True):
        make_trainer(digits, tmp_path / str(capture), METHODS[name](), capture=capture, device="cuda").fit()
    eager, found = ([row["loss"] for row in read_metrics(tmp_path / folder, "train")] for folder in ("False", "True"))
    assert found == pytest.approx(eager, rel=1e-2)


@pytest.mark.parametrize("flags", [{"ema": "0.9", "accumulate": "2"}, {"precision": "bfloat16"}])
def test_nor_do_averages_pieces_and_precision_change_them(digits, tmp_path, monkeypatch, flags):
    make_trainer(digits, tmp_path / "eager", RSLAD(steps=1), **flags).fit()
    graphs = record_on_the_cpu(monkeypatch)
    make_trainer(digits, tmp_path / "captured", RSLAD(steps=1), capture=True, **flags).fit()
    # Of batches of 40 and 20 images, or their halves.
    assert len(graphs) == 2
    eager, found = (torch.load(tmp_path / folder / "weights.pt") for folder in ("eager", "captured"))
    assert all(torch.equal(found[name], value) for name, value in eager.items())


class Stopped(Exception):
    pass


def test_a_run_continues_from_a_checkpoint_bit_for_bit(digits, tmp_path, monkeypatch):
    """Where the graphs are recorded anew, in train mode, where warming up could move the student's statistics."""
    graphs = record_on_the_cpu(monkeypatch)
    make_trainer(digits, tmp_path / "whole", ARD(steps=2), capture=True).fit()
    assert len(graphs) == 2
    with monkeypatch.context() as patch:
        save = Trainer._save

        def save_and_stop(self, log):
            save(self, log)
            if self.step == 4:
                raise Stopped

        patch.setattr(Trainer, "_save", save_and_stop)
        with pytest.raises(Stopped):
            make_trainer(digits, tmp_path / "cut", ARD(steps=2), capture=True, checkpoint_steps="1").fit()
    recorded = len(graphs)
    make_trainer(digits, tmp_path / "cut", ARD(steps=2), capture=True).fit()
    assert len(graphs) == recorded + 2
    whole, found = (torch.load(tmp_path / folder / "weights.pt") for folder in ("whole", "cut"))
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_steps_in_the_hosts_memory_are_refused_where_the_method_is_built(digits, tmp_path):
    """On any device: a configuration that trains on a CPU trains on a GPU."""
    with pytest.raises(ConfigError, match="test: attack cannot be captured: its steps are a tensor in the host's"):
        make_trainer(digits, tmp_path, PGDAT(steps=torch.full((40,), 2)), capture=True)
    make_trainer(digits, tmp_path, CrossEntropy(), capture=True)


RUN = [
    *("--methods=ce,pgd-at", "--seeds=0", "--student-samples=40", "--batch-size=20", "--max-steps=2", "--log-steps=1"),
    *("--eval-steps=1", "--eval-samples=20", "--no-tensorboard", "--capture"),
]


def test_a_run_on_a_cpu_says_once_that_its_attacks_are_eager(tmp_path, capsys):
    folder = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main(["train", "--run-dir", str(folder), *RUN]) == 0
    fact = "the attacks of pgd-at run eagerly: there are no CUDA graphs on cpu"
    assert capsys.readouterr().out.count(f"capture: {fact}") == 1
    assert json.loads((folder / "origin.json").read_text())["Capture"] == fact
    assert f"- Capture: {fact}\n" in (folder / "report.md").read_text()
    assert resolve(recipe=str(folder / "config.toml")).capture
    assert main(["train", "--run-dir", str(folder), "--resume", "--methods=kd", "--teacher-epochs=1"]) == 2
    assert "teacher_epochs" in capsys.readouterr().err
    assert main(["train", "--run-dir", str(folder), "--resume", "--seeds=1", "--methods=ce"]) == 0


def test_a_run_that_attacks_nothing_has_nothing_to_capture(tmp_path, capsys):
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--methods=ce,kd", "--capture"]) == 2
    assert "capture: True, but none of ce, kd attacks a network" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_no_graph_can_hold_is_named_with_its_method(tmp_path, monkeypatch, capsys):
    def refused(run, inputs, stateful):
        raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(captured, "_Graph", refused)
    monkeypatch.setattr(captured, "why_eager", lambda device: None)
    assert main(["train", "--run-dir", str(tmp_path / "run"), *RUN]) == 2
    error = capsys.readouterr().err
    assert "PGD-AT, seed 0: PGD(eps=" in error
    assert error.endswith("cannot be captured on cpu: called a synchronizing CUDA operation\n")
