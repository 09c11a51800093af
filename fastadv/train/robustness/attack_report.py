"""The result of an evaluation under attack: JSON, and the same as Markdown."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastadv.ops import dispatch
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.run_folder import read_origin
from fastadv.train.data import datasets
from fastadv.train.data.splits import Dataset, lacking_classes
from fastadv.train.report.intervals import wilson
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_split import JUDGE, PreparedAttack, Shard, attack_missing
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.files import write_text
from fastadv.train.runtime.processes import Processes


def evaluate(
    config: AttackConfig, prepared: PreparedAttack, folder: Path, processes: Processes, show: Callable[[str], object]
) -> None:
    """Attack what `folder` has no verdict on, and write result.json and report.md there; ``show`` the summary.

    Raises ConfigError where several processes run it.
    """
    if processes.count > 1:
        raise ConfigError(f"attack: {config.attack!r} runs in one process; {ENSEMBLE} shares its images among several")
    result = summarise(config, prepared, attack_missing(config, prepared, folder))
    summary = _summary(config, result, describe_images(config, prepared))
    classes = class_table(result, f"under {config.attack}, %")
    write_files(folder, result, f"{config.model} on {config.data} under {config.attack}", summary, classes)
    show(summary)


def write_files(folder: Path, result: Mapping[str, Any], title: str, *sections: str) -> None:
    """Write result.json, and report.md of these sections, both with where it ran, into `folder`."""
    origin = read_origin(folder)
    where = "\n".join(f"- {label}: {fact}" for label, fact in origin.items())
    report = [f"# {title}", *sections, "## Where it ran", where, f"```\n{dispatch.report().rstrip()}\n```\n"]
    write_text(folder / "result.json", json.dumps({**result, "origin": origin}, indent=1) + "\n")
    write_text(folder / "report.md", "\n\n".join(report))


def summarise(config: AttackConfig, prepared: PreparedAttack, shards: Sequence[Shard]) -> dict[str, Any]:
    """Return what result.json says of the attack. Accuracies are shares in [0, 1], intervals Wilson's of 95 %."""

    def joined(kind: str, judge: str) -> list[bool]:
        return [correct for shard in shards for correct in getattr(shard, kind)[judge]]

    seconds, in_model = (sum(getattr(shard, name) for shard in shards) for name in ("seconds", "model_seconds"))
    return {
        **setup(config, prepared.images),
        "accuracy": {
            judge: {kind: share(sum(joined(kind, judge)), prepared.images) for kind in ("clean", "robust")}
            for judge in shards[0].clean
        },
        "classes": count_classes(prepared.dataset, joined("clean", JUDGE), joined("robust", JUDGE)),
        "largest_distance": max(shard.distance for shard in shards),
        "seconds": {"attack": seconds, "model": in_model, "update": seconds - in_model},
    }


def setup(config: AttackConfig, images: int) -> dict[str, Any]:
    """Return the beginning of result.json: what was attacked with which keywords, and what judges."""
    return {
        "model": config.model,
        "data": config.data,
        "split": "test",
        "selection": "first",
        "images": images,
        "attack": {"name": config.attack, **config.keywords},
        "dtype": config.dtype,
        "judge": JUDGE,
    }


def share(correct: int, images: int) -> dict[str, Any]:
    """Return a count as result.json has it."""
    return {"correct": correct, "accuracy": correct / images, "interval": list(wilson(correct, images))}


def count_classes(dataset: Dataset, clean: Sequence[bool], robust: Sequence[bool]) -> list[dict[str, Any]]:
    """Return the counts of each class; a class without an image among those attacked has zeros."""
    rows = [{"name": name, "images": 0, "clean": 0, "robust": 0} for name in dataset.class_names]
    labels = dataset.test.labels[: len(clean)].tolist()
    for label, as_is, attacked in zip(labels, clean, robust, strict=True):
        for count, more in (("images", 1), ("clean", as_is), ("robust", attacked)):
            rows[label][count] += more
    return rows


def describe_images(config: AttackConfig, prepared: PreparedAttack) -> str:
    """Return the line of the report on which images were attacked."""
    line = f"Images: the first {prepared.images} of the test split of {config.data}"
    order, lacking = datasets.order_facts(config.data), lacking_classes(prepared.dataset.test, prepared.images)
    return "".join([line, *(f", {fact}" for fact in order.values()), f"; {lacking}." if lacking else "."])


def interval_cells(share: Mapping[str, Any]) -> list[str]:
    """Return an accuracy and its interval, in %."""
    low, high = (f"{100 * bound:.2f}" for bound in share["interval"])
    return [f"{100 * share['accuracy']:.2f}", f"{low} to {high}"]


def _summary(config: AttackConfig, result: Mapping[str, Any], images: str) -> str:
    rows = [["", "correct", "accuracy, %", "95 % interval, %"]]
    for judge in (JUDGE, *(each for each in result["accuracy"] if each != JUDGE)):
        for kind, label in (("clean", "clean"), ("robust", f"under {config.attack}")):
            found = result["accuracy"][judge][kind]
            name = label if judge == JUDGE else f"{label}, judged in {judge}"
            rows.append([name, f"{found['correct']} of {result['images']}", *interval_cells(found)])
    settings = ", ".join(f"{name}={value}" for name, value in result["attack"].items() if name not in ("name", "eps"))
    seconds = result["seconds"]
    notes = (
        f"Attack: {config.attack}(eps={_pixels(config.eps)}, {settings}) on a copy frozen in {config.dtype}; "
        f"{config.model} as loaded, in {JUDGE}, judges.",
        "Under attack, an image counts where it is classified correctly both as it is and after the attack.",
        images,
        f"Largest distance from a clean image: {_pixels(result['largest_distance'])}, in the attack's norm.",
        "Interval: Wilson's score interval, over images.",
        f"Time: {seconds['attack']:.1f} s in the attack, {result['images'] / seconds['attack']:,.1f} images/s; "
        f"{seconds['model']:.1f} s of it in the network, {seconds['update']:.1f} s in losses, steps and projections.",
    )
    return render_table(rows) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _pixels(length: float) -> str:
    """Return a length in pixels of [0, 1], and in units of 1/255."""
    return f"{length:.7g} = {255 * length:.6g}/255"


def class_table(result: Mapping[str, Any], robust: str) -> str:
    """Return the section of the report on the classes. robust: the heading of the accuracy under attack."""
    rows = [["class", "images", "clean, %", robust]]
    for entry in result["classes"]:
        shares = (
            f"{100 * entry[kind] / entry['images']:.1f}" if entry["images"] else "" for kind in ("clean", "robust")
        )
        rows.append([entry["name"], str(entry["images"]), *shares])
    return f"## Classes\n\n{render_table(rows)}"
