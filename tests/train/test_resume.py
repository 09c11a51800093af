"""A run stopped by SIGKILL and resumed ends with the weights and metrics of one that was not stopped, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastadv.train.runtime.metrics import read_metrics

ARGUMENTS = [
    *("--methods=ce,tald", "--seeds=4", "--teacher-epochs=1", "--student-samples=110", "--batch-size=25", "--epochs=6"),
    *("--checkpoint-epochs=2", "--checkpoint-steps=7", "--log-steps=4", "--option=tald.steps=2", "--eval-steps=2"),
    "--no-tensorboard",
]
STUDENTS = ("ce-seed4", "tald-seed4")
KILLED = "TALD + KD, seed 4"


def fastadv_train(*arguments: str | Path, until: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    program = [Path(__file__).with_name("train_until_killed.py"), *until] if until else ["-m", "fastadv", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", *program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    finished = fastadv_train("--run-dir", folder, *ARGUMENTS)
    assert finished.returncode == 0, finished.stderr
    return folder


def assert_same_run(folder: Path, expected: Path) -> None:
    for name in ("teacher", *STUDENTS):
        found, wanted = (torch.load(run / name / "weights.pt", weights_only=True) for run in (folder, expected))
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert torch.equal(found[key], value), f"{name}: {key}"
        for kind in ("train", "test"):
            assert read_metrics(folder / name, kind) == read_metrics(expected / name, kind)


# Steps: 5 an epoch; checkpoints after 7, 10, 14, 20, 21, 28 and 30.
@pytest.mark.parametrize(("moment", "step", "resumed_after"), [("step", 13, 10), ("checkpoint", 20, 14)])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, uninterrupted, moment, step, resumed_after):
    folder = tmp_path / "run"
    killed = fastadv_train("--run-dir", folder, *ARGUMENTS, until=(moment, KILLED, str(step)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / STUDENTS[1] / "result.json").exists()
    finished_before = {name: (folder / name / "weights.pt").stat().st_mtime_ns for name in ("teacher", STUDENTS[0])}

    resumed = fastadv_train("--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{KILLED}: continuing after step {resumed_after} of 30" in resumed.stdout
    assert_same_run(folder, uninterrupted)
    for name, modified in finished_before.items():
        assert (folder / name / "weights.pt").stat().st_mtime_ns == modified, f"{name} was trained again"


def test_a_damaged_newest_checkpoint_costs_an_interval_and_no_more(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    fastadv_train("--run-dir", folder, *ARGUMENTS, until=("step", KILLED, "13"))
    newest = folder / STUDENTS[1] / "checkpoints" / "step-000000010.pt"
    newest.write_bytes(newest.read_bytes()[:-500])
    resumed = fastadv_train("--run-dir", folder, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "step-000000010.pt: damaged checkpoint" in resumed.stdout
    assert f"{KILLED}: continuing after step 7 of 30" in resumed.stdout
    assert_same_run(folder, uninterrupted)
