"""The pictures of a report that the small job of test_experiment does not reach."""

from dataclasses import replace

import pytest

from fastadv.distill import TALD
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import Split
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.report import plots
from fastadv.train.report.plots import draw_curves, draw_particles


@pytest.mark.parametrize("classes", [[7], [0, 1], [1, 2, 3, 8, 9]])
def test_particles_are_drawn_of_whatever_classes_the_test_split_has(tmp_path, classes):
    dataset, config = datasets.load("digits"), resolve()
    there = sum(dataset.test.labels == label for label in classes).bool()
    dataset = replace(dataset, test=Split(dataset.test.images[there], dataset.test.labels[there]))
    teacher = build_classifier(config.teacher, config, dataset, seed=0).eval()
    draw_particles(TALD(steps=1, particles=2), teacher, dataset, tmp_path / "particles.png")
    assert (tmp_path / "particles.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("points", "lines"), [(1, False), (3, True)])
def test_curves_are_over_epochs_and_what_was_measured_once_a_run_is_none(tmp_path, monkeypatch, points, lines):
    figures, figure = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *size: figures.append(figure(*size)) or figures[-1])
    accuracies = [{"step": 4 * epoch, "accuracy": 0.5} for epoch in range(points)]
    losses = [{"step": 4 * epoch, "loss": 1.0} for epoch in range(3)]
    draw_curves({"KD": {"test": [accuracies] * 2, "train": [losses] * 2}}, tmp_path / "curves.png", steps_per_epoch=4)
    accuracy, loss = figures[0].axes
    assert accuracy.get_xlabel() == ("epoch" if lines else "test accuracy, %")
    assert loss.get_xlabel() == "epoch"
    assert loss.lines[0].get_xdata().tolist() == [0, 1, 2]


def test_seeds_that_were_measured_at_other_steps_are_drawn_where_all_were(tmp_path, monkeypatch):
    """A resumed run may have other log_steps, and more epochs than its first seed had at first."""
    figures, figure = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *size: figures.append(figure(*size)) or figures[-1])
    losses = [[{"step": step, "loss": float(step)} for step in steps] for steps in ([4, 8, 10, 12], [4, 12])]
    tests = [[{"step": step, "accuracy": 0.5} for step in steps] for steps in ([6, 10], [10])]
    draw_curves({"KD": {"test": tests, "train": losses}}, tmp_path / "curves.png", steps_per_epoch=2)
    accuracy, loss = figures[0].axes
    assert loss.lines[0].get_xdata().tolist() == [2, 6]
    assert loss.lines[0].get_ydata().tolist() == [4, 12]
    assert accuracy.get_xlabel() == "test accuracy, %"


def test_names_of_classes_are_drawn_as_they_are(tmp_path):
    """Between two dollars matplotlib would read mathematics, and refuse what is none."""
    dataset, config = datasets.load("digits"), resolve()
    dataset = replace(dataset, class_names=tuple(f"a_$b_$ {name}" for name in dataset.class_names))
    teacher = build_classifier(config.teacher, config, dataset, seed=0).eval()
    draw_particles(TALD(steps=1, particles=2), teacher, dataset, tmp_path / "particles.png")
    assert (tmp_path / "particles.png").read_bytes().startswith(b"\x89PNG")
