"""A finished run is extended by methods, settings and seeds, interrupted, and continued, redoing nothing."""

import json

import pytest
import torch

from fastadv.train.cli import main
from fastadv.train.config.train_config import resolve
from fastadv.train.loop.trainer import Trainer

COMMON = ["--teacher-epochs=1", "--student-samples=60", "--batch-size=30", "--epochs=2", "--eval-steps=1"]
ADDED = ["--methods=kd,soft", "--seeds=1", "--option=soft.method=kd", "--option=soft.temperature=9"]
STUDENTS = {f"{name}-seed{seed}" for name in ("ce", "kd", "soft") for seed in (0, 1)}


def train(folder, *arguments):
    return main(["train", "--run-dir", str(folder), *arguments])


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A run of plain training with seed 0, extended, interrupted inside a student and continued."""
    folder = tmp_path_factory.mktemp("extended") / "run"
    assert train(folder, *COMMON, "--no-tensorboard", "--methods=ce", "--seeds=0") == 0
    first = (folder / "ce-seed0" / "weights.pt").stat().st_mtime_ns
    step = Trainer._train_step

    def interrupt(self, *arguments):
        if self.label.startswith("KD (soft), seed 1") and self.step == 3:
            raise KeyboardInterrupt
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupt)
        assert train(folder, "--resume", *ADDED) == 130
    assert not (folder / "soft-seed1" / "result.json").exists()
    assert train(folder, "--resume") == 0
    assert (folder / "ce-seed0" / "weights.pt").stat().st_mtime_ns == first, "a finished student was trained again"
    return folder


def test_every_method_has_every_seed(extended):
    assert {path.parent.name for path in extended.glob("*-seed*/result.json")} == STUDENTS
    results = json.loads((extended / "results.json").read_text())
    assert [method["name"] for method in results["methods"]] == ["ce", "kd", "soft"]
    assert all([result["seed"] for result in method["seeds"]] == [0, 1] for method in results["methods"])
    report = (extended / "report.md").read_text()
    assert "| KD (soft)            | 2 |" in report
    assert "- Extended by: fastadv train --run-dir" in report


def test_the_weights_are_those_of_one_whole_run(extended, tmp_path):
    whole = [*COMMON, "--methods=ce,kd,soft", "--seeds=0,1", *ADDED[2:]]
    assert train(tmp_path / "run", *whole, "--no-tensorboard") == 0
    for name in STUDENTS:
        found, expected = (torch.load(run / name / "weights.pt") for run in (extended, tmp_path / "run"))
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    assert resolve(recipe=str(extended / "config.toml")) == resolve(recipe=str(tmp_path / "run" / "config.toml"))


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (["--epochs=3"], "epochs 2 -> 3"),
        (["--option=soft.temperature=2"], "options.soft.temperature 9.0 -> 2.0"),
        (["--option=kd.alpha=1", "--seeds=4"], "options.kd.alpha 0.9 -> 1.0"),
        (["--option=ce.method=ce"], "options.ce.method not given -> 'ce'"),
        (["--teacher-method=hard", "--option=hard.method=ce"], "teacher_method 'ce' -> 'hard'"),
    ],
)
def test_nothing_that_has_a_result_changes(extended, capsys, arguments, change):
    before = (extended / "config.toml").read_text()
    assert train(extended, "--resume", *arguments) == 2
    assert f"was started with other values ({change})" in capsys.readouterr().err
    assert (extended / "config.toml").read_text() == before
