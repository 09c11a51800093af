"""Several runs in one table and one picture."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastadv.train.config.config_model import flattened
from fastadv.train.config.train_config import in_new_words
from fastadv.train.data.datasets import TEST_IMAGES, TRAINING_IMAGES
from fastadv.train.report import tables
from fastadv.train.report.plots import draw_comparison
from fastadv.train.report.results import MethodResults, RunResults, accuracies_of, read_results
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.files import write_text

# What students must share for a seed to give them the same first weights, images and order.
PAIRED_BY = ("data", "image_size", "grayscale", "student", "student_samples")
# What results have of these that were written before there was a choice.
EARLIER = {"image_size": "none", "grayscale": False}
# What makes an accuracy the same measurement: bounds, of which the smallest counts, and settings.
MEASURED_BY = {
    "clean": (("eval_samples",), ()),
    "pgd": (("eval_samples", "pgd_samples"), ("eval_eps", "eval_steps")),
    "attack": (("eval_samples", "pgd_samples"), ("eval_eps",)),
}


def compare_runs(folders: Sequence[Path], baseline: str | None, named: Callable[[], Path]) -> tuple[str, Path]:
    """Write compare.md and compare.png into the folder that `named` gives; return the text of the first and its path.

    baseline: a setting: NAME, of the first run that has it, or RUN/NAME; None is the first run's KD or, where it has
    none, its plain training. Runs whose seeds mean other weights or images than its run's have no differences to it,
    nor have accuracies that were measured otherwise there.
    Raises ConfigError for a folder that holds no finished run, a run given twice and a baseline that no run has.
    """
    runs = _read(folders)
    chosen = _choose(runs, baseline)
    pairs = _paired_runs(runs, chosen)
    accuracies = accuracies_of(runs.values())
    heads = tables.difference_heads(chosen, accuracies)
    empty = [""] * len(heads)
    rows = [[*tables.result_heads(accuracies), *heads]]
    of_chosen = next(run for run in runs.values() if chosen in run.methods)
    for name, run in runs.items():
        unlike = [key for key in accuracies if _measure(run, key) != _measure(of_chosen, key)]
        if run.teacher is not None:
            label = tables.teacher_label(run) if len(runs) == 1 else f"{name}: {tables.teacher_label(run)}"
            rows.append([*tables.result_cells(label, [run.teacher], accuracies), *empty])
        for method in run.methods:
            found = tables.difference_cells(method, chosen, accuracies, unlike=unlike)
            differences = found if name in pairs else empty
            rows.append([*tables.result_cells(method.label, method.seeds, accuracies), *differences])
    text = "\n\n".join(
        [tables.render_table(rows), "Mean ± standard deviation over n networks.", tables.PAIRING, *_disagreement(runs)]
    )
    sources = "\n".join(f"- {name}: {folder}" for name, folder in zip(runs, folders, strict=True))
    page = "\n\n".join([f"# {', '.join(runs)}", text, "![The accuracies](compare.png)", "## Runs", sources]) + "\n"
    out = named()
    out.mkdir(parents=True, exist_ok=True)
    draw_comparison([method for run in runs.values() for method in run.methods], accuracies, out / "compare.png")
    write_text(out / "compare.md", page)
    return text, out / "compare.md"


def _read(folders: Sequence[Path]) -> dict[str, RunResults]:
    """The runs by name: that of the folder or, where two share it, the whole path. Of several, labels say the run."""
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs: {', '.join(names)}, expected each of them once")
    runs = dict(zip(names, map(read_results, folders), strict=True))
    if len(runs) == 1:
        return runs
    return {
        name: replace(run, methods=[replace(method, label=f"{name}: {method.label}") for method in run.methods])
        for name, run in runs.items()
    }


def _choose(runs: Mapping[str, RunResults], baseline: str | None) -> MethodResults:
    """The setting to compare with."""
    settings = {(run, method.name): method for run in runs for method in runs[run].methods}
    first = next(iter(runs.values()))
    if baseline is None:
        return first.baseline or first.methods[0]
    for (run, name), method in settings.items():
        if baseline in (name, f"{run}/{name}"):
            return method
    names = ", ".join(f"{run}/{name}" for run, name in settings)
    raise ConfigError(f"baseline: {baseline!r}, expected one of {names}, or the last part of one")


def _paired_runs(runs: Mapping[str, RunResults], baseline: MethodResults) -> set[str]:
    """The runs whose students pair with those of the baseline seed by seed."""

    def identity(run: RunResults) -> list[Any]:
        # The path of other datasets may differ where they are the same.
        data = run.config["data"]
        own = run.config.get("data_dir") if data == "folder" or ":" in data else None
        return [own, *(run.config.get(key, EARLIER.get(key)) for key in PAIRED_BY)]

    of_baseline = next(run for run in runs.values() if baseline in run.methods)

    def same_images(run: RunResults) -> bool:
        known = [line for line in (TRAINING_IMAGES, TEST_IMAGES) if line in run.origin and line in of_baseline.origin]
        return all(run.origin[line] == of_baseline.origin[line] for line in known)

    return {name for name, run in runs.items() if identity(run) == identity(of_baseline) and same_images(run)}


def _measure(run: RunResults, key: str) -> list[Any]:
    """Return what one accuracy of the run was measured with."""
    config, (bounds, settings) = in_new_words(run.config), MEASURED_BY[key]
    images = [bound for name in bounds if (bound := config.get(name, "none")) != "none"]
    return [min(images, default="none"), *map(config.get, settings)]


def _disagreement(runs: Mapping[str, RunResults]) -> list[str]:
    """Return the differences of the runs' configurations, but methods and seeds, where there are any.

    The options of what some runs train count in those alone; those of what none trains may be a part of something. Of
    images and checkpoints the content counts too, where each run kept what it was.
    """
    flat = {name: flattened({**run.config, "methods": "", "seeds": ""}) for name, run in runs.items()}
    for line in dict.fromkeys(line for run in runs.values() for line in run.origin if line.endswith(" SHA-256")):
        if all(line in run.origin for run in runs.values()):
            for name, run in runs.items():
                flat[name][line] = run.origin[line]
    keys = dict.fromkeys(key for config in flat.values() for key in config)
    lines = []
    for key in keys:
        training = [
            name for name, run in runs.items() if any(key.startswith(f"options.{m.name}.") for m in run.methods)
        ]
        values = {name: flat[name].get(key, "not given") for name in training or runs}
        if len(set(map(str, values.values()))) > 1:
            lines.append(f"- {key}: {', '.join(f'{value} ({name})' for name, value in values.items())}")
    return ["The runs differ in more than methods and seeds:", "\n".join(lines)] if lines else []
