import sys

import pytest

from fastadv.train.cli import main
from fastadv.train.config import Config


def fails(capsys, *arguments: str) -> str:
    """The error message of a command that must fail with status 2 and without a traceback."""
    assert main(["train", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("fastadv: error: ")
    assert "Traceback" not in message
    return message


def test_every_field_is_a_flag(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert all("--" + name.replace("_", "-") in text for name in Config.types())


def test_errors_of_the_users_have_no_traceback(capsys, tmp_path):
    assert "batch_size: 'many'" in fails(capsys, "--batch-size", "many")
    (tmp_path / "a file").touch()
    assert "Not a directory" in fails(capsys, "--run-dir", str(tmp_path / "a file" / "run"))
    assert "recipe: 'unheard'" in fails(capsys, "--recipe", "unheard")
    run = ["--run-dir", str(tmp_path / "run"), "--data", "cifar100", "--no-tensorboard"]
    assert "holds neither" in fails(capsys, *run, "--data-dir", str(tmp_path))
    assert "already holds a run" in fails(capsys, *run, "--data-dir", str(tmp_path))


def test_a_resumed_run_keeps_its_configuration(capsys, tmp_path):
    run = ["--run-dir", str(tmp_path / "run"), "--data", "cifar100", "--data-dir", str(tmp_path), "--lr", "0.5"]
    fails(capsys, *run)
    assert "lr 0.5 -> 0.25" in fails(capsys, *run[:2], "--resume", "--lr", "1/4")
    assert "holds neither" in fails(capsys, *run[:2], "--resume", "--lr", "1/2")
    assert "holds neither" in fails(capsys, *run, "--resume")


def test_resume_without_a_run_starts_one_and_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--data", "cifar100", "--data-dir", str(tmp_path)]) == 2
    assert "nothing to resume" in capsys.readouterr().out
    assert len(list((tmp_path / "runs").glob("cifar100-*/config.toml"))) == 1


def test_doctor_says_what_serves_each_op(capsys):
    assert main(["doctor"]) == 0
    assert "svgd_step" in capsys.readouterr().out


def test_a_missing_extra_is_named_before_anything_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install 'fastadv[train]'" in fails(capsys, "--run-dir", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "teacher").exists()
