"""The report of a run: tables, pictures, and where the numbers come from."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fastadv.distill import TALD
from fastadv.ops import dispatch
from fastadv.train.config.methods import METHODS, label_specs
from fastadv.train.config.run_folder import student_folder
from fastadv.train.config.train_config import Config, in_new_words
from fastadv.train.data.splits import Dataset, lacking_classes
from fastadv.train.report import tables
from fastadv.train.report.plots import draw_curves, draw_particles
from fastadv.train.report.results import RunResults, accuracies_of, value_of, write_results
from fastadv.train.runtime.files import write_text
from fastadv.train.runtime.imports import require
from fastadv.train.runtime.metrics import read_metrics


def require_libraries() -> None:
    """Raise MissingExtraError where a library is missing without which no report can be made."""
    require("matplotlib.figure", "the report's pictures")
    require("scipy.stats", "the report's paired comparison")


def write_report(config: Config, dataset: Dataset, teacher: nn.Module | None, folder: Path) -> str:
    """Write report.md, results.json, curves.png and particles.png (where TALD ran) from what lies in `folder`.

    Returns the table of methods as text.
    """
    run = write_results(config, folder, train_images=len(dataset.train), test_images=len(dataset.test))
    metrics = {
        method.label: {
            kind: [read_metrics(student_folder(folder, method.name, seed), kind) for seed in method.values("clean")]
            for kind in ("train", "test")
        }
        for method in run.methods
    }
    table, comparison = result_table(run), comparison_table(run)
    sections = [
        f"# {run.title}",
        table,
        "\n".join(protocol(run)),
        *_notes([*general_notes(config, dataset), *_without_result(config, run)], run),
        *([] if comparison is None else ["## Seed by seed against the baseline", comparison, tables.PAIRING]),
        "## Each seed",
        _seed_table(run),
        *_repulsion({label: kinds["train"] for label, kinds in metrics.items()}),
        "![Curves over the epochs](curves.png)",
        *_draw_particles(config, dataset, teacher, folder),
        "## Where it ran",
        "\n".join(f"- {label}: {fact}" for label, fact in run.origin.items()),
        f"```\n{dispatch.report().rstrip()}\n```",
        "The resolved configuration is in [config.toml](config.toml), the numbers in [results.json](results.json).\n",
    ]
    steps_per_epoch = config.steps_in_epoch(config.student_samples or len(dataset.train))
    draw_curves(metrics, folder / "curves.png", steps_per_epoch=steps_per_epoch)
    write_text(folder / "report.md", "\n\n".join(sections))
    return f"{table}\n{_spread_note(run)}"


def result_table(run: RunResults) -> str:
    """The teacher and every method, with their speed."""
    networks = [(method.label, method.seeds) for method in run.methods]
    if run.teacher is not None:
        networks.insert(0, (tables.teacher_label(run), [run.teacher]))
    accuracies = accuracies_of([run])
    rows = [[*tables.result_heads(accuracies), "images/s in training"]]
    for label, results in networks:
        speeds = [result["images_per_second"] for result in results if "images_per_second" in result]
        speed = tables.mean_and_spread(speeds, 0) if speeds else "not trained here"
        rows.append([*tables.result_cells(label, results, accuracies), speed])
    return tables.render_table(rows)


def protocol(run: RunResults) -> list[str]:
    """Return the lines that define the numbers of the table."""
    config = in_new_words(run.config)
    lines = [f"{_spread_note(run)}, each student trained for {_duration(config)} on {_training_images(run)}."]
    labels = {"smoothing": config.get("label_smoothing", 0), "mixup": config.get("mixup", "none")}
    softened = [f"{name} {value}" for name, value in labels.items() if value not in (0, "none")]
    if softened:
        lines.append(f"Labels: {', '.join(softened)}.")
    decay = config.get("ema", "none")
    if decay != "none":
        lines.append(f"Weights: a student's are averaged over its steps, with decay {decay}, and the average counts.")
    if run.teacher is not None:
        trained = f"trained on all {run.train_images} training images, {run.teacher_method}"
        of_teacher = next((each for each in (config.get("teacher_ema", "none"), decay) if each != "none"), None)
        if of_teacher is not None:
            trained += f", its weights averaged with decay {of_teacher}"
        lines.append(f"Teacher: one network, {'loaded' if run.teacher_method is None else trained}.")
    bounds = (run.test_images, config["eval_samples"], config["pgd_samples"])
    clean, attacked = (min(bound for bound in bounds[:count] if bound != "none") for count in (2, 3))
    which = "all" if clean == run.test_images else "the first"
    attack = _last_attack(run)
    last = f"{attack}: linf, the same eps and images; a student's own report of it is attack/report.md in its folder."
    return [
        *lines,
        f"Clean accuracy: {which} {clean} test images, after the last step.",
        f"PGD: linf, eps {config['eval_eps']:.4g} of pixels in [0, 1], {config['eval_steps']} steps, one random start, "
        f"{attacked} test images.",
        *([last] if attack else []),
    ]


def _last_attack(run: RunResults) -> str:
    """Return the attack that finished students met beside PGD, empty where there was none, as in earlier versions."""
    attack = run.config.get("eval_attack", "pgd")
    return "" if attack == "pgd" else attack


def _duration(config: Mapping[str, Any]) -> str:
    """Return the length of a student's training, in words."""
    epochs = f"{config['epochs']} epochs"
    if config["steps_per_epoch"] != "none":
        epochs += f" of {config['steps_per_epoch']} steps"
    return epochs if config["max_steps"] == "none" else f"{epochs}, at most {config['max_steps']} steps,"


def _training_images(run: RunResults) -> str:
    """Name the students' training images, in words."""
    unseeing = [method.label for method in run.methods if not METHODS[method.method].kind.needs_images]
    if len(unseeing) == len(run.methods):
        return "no image"
    images = f"all {run.train_images} training images"
    if run.config["student_samples"] != "none":
        images = (
            f"{run.config['student_samples']} of {run.train_images} training images, drawn by class, anew for each seed"
        )
    return f"{images}, but {', '.join(unseeing)} on none" if unseeing else images


def _spread_note(run: RunResults) -> str:
    seeds = len(run.config["seeds"])
    if any(len(method.seeds) < seeds for method in run.methods):
        return f"Students: mean ± standard deviation, n of {seeds} seeds"
    return "Students: n = 1 seed" if seeds == 1 else f"Students: mean ± standard deviation, n = {seeds} seeds"


def comparison_table(run: RunResults) -> str | None:
    """Every method against the baseline, seed by seed; None where there are not both."""
    baseline = run.baseline
    if baseline is None or len(run.methods) == 1:
        return None
    accuracies = accuracies_of([run])
    rows = [["method", *tables.difference_heads(baseline, accuracies)]]
    for method in run.methods:
        if method != baseline:
            rows.append([method.label, *tables.difference_cells(method, baseline, accuracies)])
    return tables.render_table(rows)


def general_notes(config: Config, dataset: Dataset) -> list[str]:
    """Return what a reader should know before a run trains: of its rates, and of the images it looks at."""
    bounds = dict.fromkeys(bound for bound in (config.eval_samples, config.pgd_samples) if bound is not None)
    lacking = [lacking_classes(dataset.test, bound) for bound in bounds]
    classes, trained = len(dataset.class_names), len(dataset.train.labels.unique())
    untrained = [f"{classes - trained} of the {classes} classes have no training image"] if trained < classes else []
    return [*config.constant_rates, *untrained, *(sentence for sentence in lacking if sentence is not None)]


def _without_result(config: Config, run: RunResults) -> list[str]:
    """Return a sentence for each student that was to be trained and has no result."""
    trained = {method.name: method.values("clean") for method in run.methods}
    labels = label_specs(config.specs, config.options)
    return [
        f"{labels[spec.name]}, seed {seed}: its training diverged, and it is in no number here"
        for spec in config.specs
        for seed in config.seeds
        if seed not in trained.get(spec.name, {})
    ]


def _notes(general: Sequence[str], run: RunResults) -> list[str]:
    """Return the section of notes for a reader of the results, where there are any: the general and the methods'."""
    lines = [f"- {note}." for note in general]
    lines += [
        f"- {method.label}, seed{'s'[: len(seeds) > 1]} {', '.join(map(str, seeds))}: {note}."
        for method in run.methods
        for note, seeds in method.notes().items()
    ]
    return ["## Notes", "\n".join(lines)] if lines else []


def _seed_table(run: RunResults) -> str:
    """Every accuracy of every student."""
    accuracies = accuracies_of([run])
    shown = ["clean", "PGD", *([_last_attack(run)] if "attack" in accuracies else [])]
    rows = [[f"{' / '.join(shown)}, %", *(f"seed {seed}" for seed in run.config["seeds"])]]
    for method in run.methods:
        found = {
            result["seed"]: " / ".join(f"{100 * value_of(result, key):.2f}" for key in accuracies)
            for result in method.seeds
        }
        rows.append([method.label, *(found.get(seed, "") for seed in run.config["seeds"])])
    return tables.render_table(rows)


def _repulsion(metrics: dict[str, list[list[dict[str, Any]]]]) -> list[str]:
    """The section on how strongly particles repel each other, where a method reports it."""
    rows = [["method", "first interval", "last interval"]]
    for label, seeds in metrics.items():
        ends = [[rows[at].get("repulsion") or math.nan for rows in seeds] for at in (0, -1)]
        if not any(map(math.isnan, ends[0] + ends[1])):
            rows.append([label, *(tables.mean_and_spread(end, 2) for end in ends)])
    if len(rows) == 1:
        return []
    note = (
        "How many times stronger particles repel each other than the score attracts them, before the two are scaled: "
        "the median over a batch's images at the last SVGD step, averaged over an interval of the metrics."
    )
    return ["## Repulsion of particles", tables.render_table(rows), note]


def _draw_particles(config: Config, dataset: Dataset, teacher: nn.Module | None, folder: Path) -> list[str]:
    """Draw particles.png where TALD ran; return the link to it."""
    tald = next((spec for spec in config.specs if issubclass(spec.kind, TALD)), None)
    if teacher is None or tald is None:
        return []
    method = tald.build()
    assert isinstance(method, TALD)
    draw_particles(method, teacher, dataset, folder / "particles.png")
    return ["![Clean images, their particles, and the difference amplified](particles.png)"]
