"""Runs that survive people: signals, two at once, full disks, closed pipes, a fault at each write of a checkpoint."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastadv.distill import CrossEntropy
from fastadv.train.cli import main
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import subset
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime import files
from fastadv.train.runtime.checkpoint import Checkpoints
from fastadv.train.runtime.errors import ConfigError

SMALL = ["--methods=ce", "--seeds=0", "--student-samples=60", "--batch-size=20", "--eval-steps=1", "--eval-samples=20"]
SMALL += ["--no-tensorboard", "--threads=1"]


def command(*arguments):
    return [sys.executable, "-W", "ignore", "-m", "fastadv", *map(str, arguments)]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_followed_by_a_checkpoint_and_the_command_that_goes_on(tmp_path, number, status):
    run = tmp_path / "run"
    arguments = ["train", "--run-dir", run, *SMALL, "--epochs=100000", "--log-steps=5", "--checkpoint-epochs=100000"]
    arguments += ["--eval-epochs=100000"]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = run / "ce-seed0" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == status, said
    assert said.splitlines()[-1] == f"fastadv: interrupted; fastadv train --resume --run-dir {run} continues"
    (saved,) = (run / "ce-seed0" / "checkpoints").glob("step-*.pt")
    assert int(saved.stem.removeprefix("step-")) >= 5


def make_trainer(folder, **flags):
    config = resolve(flags={"epochs": "2", "batch_size": "30", "tensorboard": False, "eval_steps": "1", **flags})
    digits = datasets.load("digits")
    return Trainer(
        model=build_classifier(config.student, config, digits, seed=0),
        method=CrossEntropy(),
        teacher=None,
        train=subset(digits.train, 60, seed=0),
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    )


def test_one_process_a_folder(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    with files.locked(run), pytest.raises(ConfigError, match="another process works in it"), files.locked(run):
        pass
    with files.locked(run):
        assert main(["train", "--run-dir", str(run), *SMALL, "--epochs=1"]) == 2
        assert f"{run}: another process works in it" in capsys.readouterr().err
        assert not (run / "config.toml").exists()


def test_a_killed_process_leaves_no_lock(tmp_path):
    program = (
        "import os, signal, sys; from pathlib import Path; from fastadv.train.runtime.files import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == -signal.SIGKILL
    with files.locked(tmp_path):
        pass


def test_a_closed_pipe_is_no_error():
    piped = " ".join(command("methods")) + " | head -n 1"
    shell = f"set -o pipefail; {piped}; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert found.stdout.startswith("ce ")


def test_a_training_whose_reader_is_gone_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        command("train", f"--run-dir={tmp_path / 'run'}", "--methods=ce", "--epochs=1", "--seeds=0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.wait(timeout=120) == 2
    assert process.stderr.read().startswith("fastadv: error: what read the output is gone; ")


def test_a_full_disk_is_named_with_what_was_kept(tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    save = Checkpoints.save

    def full(self, step, content):
        if step == 6:
            monkeypatch.setattr(files.os, "fsync", no_space)
        return save(self, step, content)

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Checkpoints, "save", full)
    assert main(["train", "--run-dir", str(run), *SMALL, "--epochs=4", "--checkpoint-epochs=1"]) == 2
    error = capsys.readouterr().err
    path = run / "ce-seed0" / "checkpoints" / "step-000000006.pt"
    assert f"No space left on device: '{path}'" in error
    assert error.endswith(f"what was saved is whole: fastadv train --resume --run-dir {run} continues\n")
    assert not path.with_name(path.name + ".tmp").exists()
    monkeypatch.undo()
    assert main(["train", "--resume", "--run-dir", str(run)]) == 0
    assert "continuing after step 3 of 12" in capsys.readouterr().out


def test_a_write_that_torch_reports_in_its_own_words_is_an_oserror(tmp_path):
    """A file that may not grow as large: torch.save speaks of a position that it did not expect."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = {"x": torch.zeros(100_000)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            files.write_atomically(tmp_path / "file.pt", lambda file: torch.save(content, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(raised.value.__cause__, RuntimeError)
    assert raised.value.filename == str(tmp_path / "file.pt")
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """Stands for a kill: nothing handles it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make_trainer(folder).fit()
    return torch.load(folder / "weights.pt")


# Calls of each in the third checkpoint of the run, before or after which the process dies.
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", ["write", "flush", "fsync", "replace", "unlink"])
def test_a_kill_at_each_call_of_a_checkpoint_costs_no_more_than_it(tmp_path, monkeypatch, whole, call, after):
    trainer = make_trainer(tmp_path, checkpoint_steps="1")
    save, made = Checkpoints.save, []

    def dying(function):
        def call_then_die(*arguments, **keywords):
            if not after:
                raise Killed
            function(*arguments, **keywords)
            raise Killed

        return call_then_die

    def save_and_die(self, step, content):
        made.append(step)
        if len(made) < 3:
            return save(self, step, content)
        with monkeypatch.context() as patch:
            if call == "write":
                patch.setattr(torch, "save", dying(lambda content, file: file.write(b"the beginning")))
            elif call == "flush":
                patch.setattr(torch, "save", dying(torch.save))  # all is written, nothing is flushed
            elif call == "unlink":
                patch.setattr(Path, "unlink", dying(Path.unlink))
            else:
                patch.setattr(files.os, call, dying(getattr(os, call)))
            return save(self, step, content)

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    with pytest.raises(Killed):
        trainer.fit()
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*.pt"))
    # What bears the name of a checkpoint is a whole one: it was renamed into place.
    for name in names:
        torch.load(tmp_path / "checkpoints" / name)
    third = "step-000000003.pt"
    assert (third in names) == (call == "unlink" or (call == "replace" and after))
    resumed = make_trainer(tmp_path, checkpoint_steps="1")
    resumed.fit()
    found = torch.load(tmp_path / "weights.pt")
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_nothing_is_created_before_all_is_known_to_be_good(tmp_path, capsys):
    for bad in (
        ["--data=cifar100", f"--data-dir={tmp_path}"],
        ["--teacher-checkpoint", str(tmp_path / "absent.pt"), "--methods=kd"],
        ["--methods=fitnet"],
        ["--student-samples=5000"],
        ["--option=kd.temperature=0"],
    ):
        assert main(["train", "--run-dir", str(tmp_path / "run"), "--seeds=0", *bad]) == 2
        assert not (tmp_path / "run").exists(), bad
    capsys.readouterr()


def test_a_folder_without_a_step_done_is_started_anew(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", interrupt)
        assert main(["train", "--run-dir", str(run), *SMALL, "--epochs=2", "--lr=0.5"]) == 130
    capsys.readouterr()
    assert main(["train", "--run-dir", str(run), *SMALL, "--epochs=1"]) == 0
    assert "already" not in capsys.readouterr().err
    assert resolve(recipe=str(run / "config.toml")).lr == resolve().lr
    assert main(["train", "--run-dir", str(run), *SMALL, "--epochs=1"]) == 2
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--metods=ce"], "unrecognized arguments: --metods=ce, did you mean --methods?"),
        (["attack", "--cheqpoint", "x"], "unrecognized arguments: --cheqpoint x, did you mean --checkpoint?"),
        (["train", "--weight_decay=1"], "did you mean --weight-decay?"),
        (["train", "--qqqqqq"], "unrecognized arguments: --qqqqqq\n"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_nearest(capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_a_last_batch_of_one_image_under_batchnorm_is_found_first(tmp_path, capsys):
    """digits_small keeps 2x2 maps, so that one image is enough for it; resnet18 ends in one pixel."""
    arguments = ["train", "--run-dir", str(tmp_path / "run"), "--methods=ce", "--seeds=0", "--student-samples=61"]
    arguments += ["--batch-size=20", "--student=resnet18"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "batch_size: the last batch of an epoch has 1 image, on which resnet18 cannot be trained" in error
    assert not (tmp_path / "run").exists()
