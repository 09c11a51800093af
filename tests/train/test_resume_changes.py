"""--resume may change what no result depends on, and go on where that gives what a longer run would have given."""

import json
import re
import shutil

import pytest
import torch

from fastadv.train.cli import main
from fastadv.train.config import run_folder
from fastadv.train.config.train_config import resolve

COMMON = ["--methods=kd", "--seeds=0", "--student-samples=60", "--batch-size=30", "--epochs=2", "--eval-steps=1"]
COMMON += ["--eval-samples=40", "--no-tensorboard", "--schedule=step", "--milestones=1"]


def train(folder, *arguments):
    return main(["train", "--run-dir", str(folder), *map(str, arguments)])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    data = resolve()
    from fastadv.train.networks import catalogue

    network = catalogue.build(data.teacher, num_classes=10, image_shape=(1, 8, 8))
    torch.save(network.state_dict(), folder / "teacher.pt")
    return folder / "teacher.pt"


@pytest.fixture
def run(tmp_path, teacher):
    shutil.copy(teacher, tmp_path / "teacher.pt")
    assert train(tmp_path / "run", *COMMON, "--teacher-checkpoint", tmp_path / "teacher.pt") == 0
    return tmp_path / "run"


def test_what_no_result_depends_on_may_change(run, tmp_path, capsys):
    before = (run / "kd-seed0" / "weights.pt").stat().st_mtime_ns
    shutil.move(tmp_path / "teacher.pt", tmp_path / "moved.pt")
    changes = ["--threads=2", "--log-steps=9", "--checkpoint-epochs=2", "--checkpoint-steps=3", "--device=cpu"]
    assert train(run, "--resume", *changes, "--teacher-checkpoint", tmp_path / "moved.pt") == 0
    config = resolve(recipe=str(run / "config.toml"))
    assert (config.threads, config.log_steps, config.checkpoint_steps) == (2, 9, 3)
    assert config.teacher_checkpoint == tmp_path / "moved.pt"
    assert (run / "kd-seed0" / "weights.pt").stat().st_mtime_ns == before
    capsys.readouterr()
    state = torch.load(tmp_path / "moved.pt")
    torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "moved.pt")
    assert train(run, "--resume") == 2
    assert "started with other values (Teacher checkpoint SHA-256 " in capsys.readouterr().err


def test_a_checkpoint_may_not_be_taken_away(run, capsys):
    assert train(run, "--resume", "--seeds=1", "--teacher-checkpoint=none") == 2
    assert re.search(r"other values \(Teacher checkpoint SHA-256 \w+ -> not given\)", capsys.readouterr().err)


def test_more_epochs_give_what_a_longer_run_gives(run, tmp_path, capsys):
    assert train(run, "--resume", "--epochs=4") == 0
    assert "continuing after step 4 of 8" in capsys.readouterr().out
    whole = [*COMMON, "--epochs=4", "--teacher-checkpoint", tmp_path / "teacher.pt"]
    assert train(tmp_path / "whole", *whole) == 0
    found, expected = (torch.load(folder / "kd-seed0" / "weights.pt") for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert "- Epochs: 2 at first, then on to 4\n" in (run / "report.md").read_text()
    assert json.loads((run / "kd-seed0" / "result.json").read_text())["epochs"] == 4


@pytest.mark.parametrize(
    "given",
    [["--schedule=cosine", "--milestones="], ["--methods=dkd", "--option=dkd.ramp=0.5"], ["--max-steps=3"]],
    ids=["cosine", "a method's schedule", "a number of steps"],
)
def test_more_epochs_are_refused_where_something_follows_their_number(tmp_path, teacher, capsys, given):
    assert train(tmp_path / "run", *COMMON, "--teacher-checkpoint", teacher, *given) == 0
    capsys.readouterr()
    assert train(tmp_path / "run", "--resume", "--epochs=4") == 2
    assert "was started with other values (epochs 2 -> 4)" in capsys.readouterr().err
    assert train(tmp_path / "run", "--resume", "--epochs=1") == 2


def test_a_run_of_an_earlier_version_keeps_its_clean_accuracy_on_all(run):
    """There eval_samples bounded the attack alone."""
    text = (run / "config.toml").read_text().replace('pgd_samples = "none"\n', "")
    assert "pgd_samples" not in text
    (run / "config.toml").write_text(text)
    assert train(run, "--resume", "--seeds=1") == 0
    config = resolve(recipe=str(run / "config.toml"))
    assert (config.eval_samples, config.pgd_samples) == (None, 40)
    assert "Clean accuracy: all 500 test images" in (run / "report.md").read_text()


def test_where_a_run_goes_on_is_told(run, monkeypatch):
    begun = run_folder.read_origin(run)
    lines = []
    for software in (begun["Software"], "torch 9", "torch 9", "torch 10"):
        found = {**begun, "Software": software}
        monkeypatch.setattr(run_folder, "describe", lambda found=found, **_: found)
        assert train(run, "--resume") == 0
        lines.append(run_folder.read_origin(run).get("Resumed with"))
    assert lines == [None, *["Software torch 9"] * 2, "Software torch 9; Software torch 10"]
    assert "- Resumed with: Software torch 9; Software torch 10\n" in (run / "report.md").read_text()


def test_a_student_that_is_begun_goes_on_with_as_many_processes(run, capsys):
    student = run / "kd-seed0"
    (student / "result.json").unlink()
    checkpoint = max((student / "checkpoints").glob("step-*.pt"))
    content = torch.load(checkpoint, weights_only=True)
    assert content["processes"] == 1
    torch.save({**content, "processes": 4}, checkpoint)
    assert train(run, "--resume") == 2
    assert "KD, seed 0 was begun by 4 processes, expected as many, got 1" in capsys.readouterr().err
    del content["processes"]  # as earlier versions
    torch.save(content, checkpoint)
    assert train(run, "--resume") == 0


def test_eval_samples_bound_the_clean_evaluation(run):
    report = (run / "report.md").read_text()
    assert "Clean accuracy: the first 40 test images" in report
    assert "one random start, 40 test images." in report
    clean = json.loads((run / "kd-seed0" / "result.json").read_text())["clean"]
    assert (clean * 40) == pytest.approx(round(clean * 40))


def test_an_attack_is_extended_to_more_images(small_run, tmp_path):
    def attack(folder, *arguments):
        assert main(["attack", "--out", str(folder), *arguments]) == 0
        result = json.loads((folder / "result.json").read_text())
        return {name: value for name, value in result.items() if name not in ("seconds", "origin")}

    options = ["--model=digits_small", f"--checkpoint={small_run / 'weights.pt'}", "--steps=1", "--batch-size=50"]
    attack(tmp_path / "run", *options, "--n=60")
    first = (tmp_path / "run" / "batches" / "batch-00000.json").stat().st_mtime_ns
    found = attack(tmp_path / "run", "--resume", "--n=137")
    assert (tmp_path / "run" / "batches" / "batch-00000.json").stat().st_mtime_ns == first
    assert found == attack(tmp_path / "whole", *options, "--n=137")
    assert main(["attack", "--out", str(tmp_path / "run"), "--resume", "--n=100"]) == 2
