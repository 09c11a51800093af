"""A folder of one kind is never taken for another: what lies in it stays."""

import shutil
import time

import pytest

from fastadv.train.cli import main

ATTACK = ["--model=digits_small", "--n=20", "--steps=1"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture
def run(small_run, tmp_path):
    return shutil.copytree(small_run.parent, tmp_path / "run")


@pytest.mark.parametrize(
    ("place", "held"),
    [(".", "config.toml"), ("ce-seed0", "result.json")],
    ids=["a run", "a student"],
)
def test_an_attack_leaves_a_training_as_it_is(run, place, held, capsys):
    before = contents(run)
    out = run / place
    assert main(["attack", "--out", str(out), f"--checkpoint={run / 'ce-seed0' / 'weights.pt'}", *ATTACK]) == 2
    assert f"out: {out} holds {held} of another run, expected a new folder" in capsys.readouterr().err
    assert contents(run) == before


def test_an_attack_leaves_a_student_that_is_not_finished_as_it_is(run, capsys):
    student = run / "ce-seed0"
    weights = (student / "weights.pt").rename(run.parent / "weights.pt")
    (student / "result.json").unlink()
    assert main(["attack", "--out", str(student), f"--checkpoint={weights}", *ATTACK]) == 2
    assert f"out: {student} holds metrics.jsonl of another run" in capsys.readouterr().err
    assert not (student / "result.json").exists()


def test_a_training_leaves_an_evaluation_as_it_is(run, tmp_path, capsys):
    out = tmp_path / "attack"
    assert main(["attack", "--out", str(out), f"--checkpoint={run / 'ce-seed0' / 'weights.pt'}", *ATTACK]) == 0
    before = contents(out)
    assert main(["train", "--run-dir", str(out), "--methods=ce", "--seeds=0", "--epochs=1"]) == 2
    assert f"run_dir: {out} holds attack.toml of another run" in capsys.readouterr().err
    assert contents(out) == before


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    options = ["--methods=ce", "--seeds=0", "--max-steps=1", "--eval-samples=10", "--eval-steps=1", "--no-tensorboard"]
    for _ in range(3):
        assert main(["train", *options]) == 0
    assert sorted(run.name for run in (tmp_path / "runs").iterdir()) == [
        f"digits-20260101-000000{number}" for number in ("", "-2", "-3")
    ]
    for _ in range(2):
        assert main(["compare", "runs/digits-20260101-000000"]) == 0
    assert len(list((tmp_path / "runs").glob("compare-*/compare.md"))) == 2
