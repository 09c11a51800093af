"""IAD-II's second teacher, from the command line."""

import torch

from fastadv.train.cli import main
from fastadv.train.networks import catalogue
from fastadv.train.runtime.metrics import read_metrics

ARGUMENTS = [
    *("train", "--methods=iad-ii", "--option=iad-ii.standard_weight=0.25", "--seeds=0", "--teacher-epochs=1"),
    *("--student-samples=40", "--batch-size=20", "--max-steps=2", "--log-steps=1", "--eval-steps=1"),
    *("--eval-samples=20", "--no-tensorboard"),
]


def test_it_is_loaded_and_listened_to_by_every_seed(tmp_path, capsys):
    file = tmp_path / "standard.pt"
    torch.save(catalogue.build("digits_cnn", num_classes=10, image_shape=(1, 8, 8)).state_dict(), file)
    run = tmp_path / "run"
    assert main([*ARGUMENTS, "--run-dir", str(run), "--standard-teacher-checkpoint", str(file)]) == 0
    rows = read_metrics(run / "iad-ii-seed0", "train")
    assert len(rows) == 2
    assert all(row["standard"] > 0 for row in rows)
    without = ["--seeds=1", "--standard-teacher-checkpoint=none"]
    assert main(["train", "--resume", "--run-dir", str(run), *without]) == 2
    assert "was started with other values (Standard teacher checkpoint SHA-256 " in capsys.readouterr().err


def test_it_is_refused_where_nobody_asks_it(tmp_path, capsys):
    arguments = ["--methods=kd,igdm", "--standard-teacher-checkpoint=standard.pt", "--run-dir", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 2
    message = "standard_teacher_checkpoint: 'standard.pt', but none of ce, kd, igdm asks a second teacher"
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # IGDM over IAD-II asks it: what is refused then is the missing file.
    over = ["--option=over.method=igdm", "--option=over.base=iad-ii", "--methods=over", "--teacher-epochs=1"]
    assert main(["train", *arguments, *over]) == 2
    assert "standard.pt: no such file" in capsys.readouterr().err
    assert not (tmp_path / "run" / "teacher").exists(), "the first teacher was trained in vain"


def test_a_weight_without_it_is_refused(tmp_path, capsys):
    assert main([*ARGUMENTS, "--run-dir", str(tmp_path / "run")]) == 2
    assert "IAD-II: standard_weight must be 0 without a standard_teacher" in capsys.readouterr().err
