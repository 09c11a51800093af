"""Every method of the registry trains a student of the digits from the command line, by its name alone."""

import contextlib
import json
import math

import pytest
import torch

from fastadv.distill import Batch
from fastadv.train.cli import main
from fastadv.train.config.methods import METHODS, label_specs, options_of, read_spec
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.runtime.metrics import read_metrics

ARGUMENTS = [
    *("--seeds=0", "--teacher-epochs=1", "--student-samples=40", "--batch-size=20", "--max-steps=2", "--log-steps=1"),
    *("--eval-steps=1", "--eval-samples=20", "--no-tensorboard", "--option=ft.warm_up_epochs=1"),
    # Some compare map by map; the small student of the digits has fewer than their teacher.
    "--student=digits_cnn",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every") / "run"
    assert main(["train", "--run-dir", str(folder), f"--methods={','.join(METHODS)}", *ARGUMENTS]) == 0
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_it_trains(run, name):
    rows = read_metrics(run / f"{name}-seed0", "train")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert 0 <= json.loads((run / f"{name}-seed0" / "result.json").read_text())["clean"] <= 1


def test_the_report_has_a_row_for_each(run):
    report = (run / "report.md").read_text()
    labels = label_specs([read_spec(name, {}, where="methods") for name in METHODS], {})
    assert len(set(labels.values())) == len(METHODS)
    assert all(f"| {label} " in report for label in labels.values())
    assert "on 40 of 1297 training images, drawn by class, anew for each seed, but data-free on none." in report


@pytest.mark.parametrize("name", METHODS)
def test_its_class_says_what_it_builds_on_and_whether_it_attacks(name):
    """Labels and checks are made from the class alone, before anything is built."""
    method = read_spec(name, {}, where="methods").build()
    bases = [getattr(method, option.name) for option in options_of(type(method)).values() if option.is_method]
    assert [type(base) for base in bases] == [method.default_base] * len(bases)
    assert set(map(type, bases)) <= {entry.kind for entry in METHODS.values()}
    assert type(method).attacks == any(part.ascent is not None for part in method.parts())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods=at"], "AT: layers must be given for networks with different numbers of maps"),
        (["--methods=vid"], "VID: layers must be given for networks with different numbers of maps"),
        (["--methods=tald", "--option=tald.update=up"], "options.tald: update must be one of"),
        (["--methods=kd", "--teacher-method=pgd-at", "--option=pgd-at.eps=-1"], "options.pgd-at: eps must"),
    ],
)
def test_what_a_method_refuses_is_named(tmp_path, capsys, arguments, message):
    assert main(["train", "--run-dir", str(tmp_path / "run"), *arguments, *ARGUMENTS[:-1]]) == 2
    assert capsys.readouterr().err.startswith(f"fastadv: error: {message}")


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", METHODS)
def test_its_class_says_whether_it_follows_progress(name):
    """Without the progress a method refuses whose usual schedule follows it; the others do not look."""
    spec = read_spec(name, {}, where="methods")
    method, data = spec.build(), datasets.load("digits")
    student, teacher = (build_classifier("digits_cnn", resolve(), data, seed=seed) for seed in (0, 1))
    x, y = to_pixels(data.train.images[:8]), data.train.labels[:8]
    method.build(student, teacher.eval(), x, images=8)
    method.start_epoch(student)
    batch = Batch(x, y, seed=0, index=torch.arange(8))
    follows = spec.claims("follows_progress")
    with pytest.raises(ValueError, match="progress") if follows else contextlib.nullcontext():
        method(student, teacher, batch)
