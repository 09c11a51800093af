"""The report of a run: a table, pictures, and where the numbers come from."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from fastadv.distill import TALD
from fastadv.ops import dispatch
from fastadv.train.checkpoint import write_atomically
from fastadv.train.config import Config
from fastadv.train.datasets import Dataset
from fastadv.train.metrics import read_metrics
from fastadv.train.pictures import draw_curves, draw_particles
from fastadv.train.settings import label_settings


def student_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a run keeps the student of one method or setting and seed."""
    return folder / f"{method}-seed{seed}"


def write_report(config: Config, dataset: Dataset, teacher: nn.Module | None, folder: Path) -> str:
    """Write report.md, curves.png and particles.png (where TALD ran) from what lies in `folder`; the table as text."""
    results = {name: [_result(student_folder(folder, name, seed)) for seed in config.seeds] for name in config.methods}
    labels = label_settings([config.setting(name) for name in config.methods])
    rows = [_row(labels[name], results[name]) for name in config.methods]
    if teacher is not None:
        rows.insert(0, _row(f"teacher ({config.teacher})", [_result(folder / "teacher")]))
    table = render_table([["method", "clean accuracy, %", "accuracy under PGD, %", "images/s in training"], *rows])
    sections = [
        f"# {config.teacher} to {config.student} on {config.data}"
        if teacher
        else f"# {config.student} on {config.data}",
        table,
        "\n".join(_protocol(config, dataset, teacher is not None)),
        "## Each seed",
        render_table(_seed_rows(config, labels, results)),
        *_draw_pictures(config, labels, dataset, teacher, folder),
        "## Where it ran",
        "\n".join(f"- {label}: {fact}" for label, fact in json.loads((folder / "origin.json").read_text()).items()),
        f"```\n{dispatch.report().rstrip()}\n```",
        "The resolved configuration is in [config.toml](config.toml).\n",
    ]
    report = "\n\n".join(sections)
    write_atomically(folder / "report.md", lambda file: file.write(report.encode()))
    return f"{table}\n{_spread_note(config)}"


def _draw_pictures(
    config: Config, labels: dict[str, str], dataset: Dataset, teacher: nn.Module | None, folder: Path
) -> list[str]:
    """Draw curves.png, and particles.png where TALD ran; the links to them."""
    curves = {
        labels[name]: {
            kind: [read_metrics(student_folder(folder, name, seed), kind) for seed in config.seeds]
            for kind in ("train", "test")
        }
        for name in config.methods
    }
    draw_curves(curves, folder / "curves.png")
    links = ["![Test accuracy and training loss over the steps](curves.png)"]
    tald = next((method for name in config.methods if isinstance(method := config.setting(name).build(), TALD)), None)
    if teacher is not None and tald is not None:
        draw_particles(tald, teacher, dataset, folder / "particles.png")
        links.append("![Clean images, their particles, and the difference amplified](particles.png)")
    return links


def _protocol(config: Config, dataset: Dataset, with_teacher: bool) -> list[str]:
    """What the numbers of the table are."""
    count = len(dataset.train)
    trained_on = f"all {count} training images"
    if config.student_samples is not None:
        trained_on = f"{config.student_samples} of {count} training images, drawn by class, anew for each seed"
    lines = [f"{_spread_note(config)}, each student trained on {trained_on}."]
    if with_teacher and config.teacher_checkpoint is None:
        lines.append(f"Teacher: one network, trained on all {count} training images.")
    elif with_teacher:
        lines.append("Teacher: one network, loaded.")
    return [
        *lines,
        f"Clean accuracy: all {len(dataset.test)} test images, after the last step.",
        f"PGD: linf, eps {config.eval_eps:.4g} of pixels in [0, 1], {config.eval_steps} steps, one random start, "
        f"{config.eval_samples or len(dataset.test)} test images.",
    ]


def _spread_note(config: Config) -> str:
    seeds = len(config.seeds)
    return "Students: n = 1 seed" if seeds == 1 else f"Students: mean ± standard deviation, n = {seeds} seeds"


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it also reads well on a terminal; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """The mean ± the sample standard deviation; one value stands alone."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def _result(folder: Path) -> dict[str, float]:
    return json.loads((folder / "result.json").read_text())


def _row(label: str, results: list[dict[str, float]]) -> list[str]:
    speed = "not trained here"
    if all("images_per_second" in result for result in results):
        speed = mean_and_spread([result["images_per_second"] for result in results], 0)
    accuracies = (mean_and_spread([100 * result[key] for result in results], 2) for key in ("clean", "pgd"))
    return [label, *accuracies, speed]


def _seed_rows(config: Config, labels: dict[str, str], results: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """Clean / PGD accuracy of every student."""
    rows = [["clean / PGD, %", *(f"seed {seed}" for seed in config.seeds)]]
    for name in config.methods:
        rows.append([labels[name], *(f"{100 * r['clean']:.2f} / {100 * r['pgd']:.2f}" for r in results[name])])
    return rows
