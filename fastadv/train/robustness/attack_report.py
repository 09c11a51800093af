"""The result of an evaluation under attack: JSON, and the same as Markdown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fastadv.ops import dispatch
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.attacks import keywords
from fastadv.train.report.intervals import wilson
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_split import JUDGE, Subject
from fastadv.train.robustness.shards import Shard, Verdict
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.run_folder import read_origin


def write_result(config: AttackConfig, subject: Subject, shards: Sequence[Shard], folder: Path) -> str:
    """Write result.json and report.md into `folder`; return the summary as text."""
    origin = read_origin(folder)
    result = summarise(config, subject, shards, origin)
    summary = _summary(config, result)
    sections = [
        f"# {config.model} on {config.data} under {config.attack}",
        summary,
        "## Classes",
        _class_table(config, result),
        "## Where it ran",
        "\n".join(f"- {label}: {fact}" for label, fact in origin.items()),
        f"```\n{dispatch.report().rstrip()}\n```\n",
    ]
    for name, text in (("result.json", json.dumps(result, indent=1) + "\n"), ("report.md", "\n\n".join(sections))):
        write_atomically(folder / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return summary


def summarise(
    config: AttackConfig, subject: Subject, shards: Sequence[Shard], origin: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of result.json. Accuracies are shares in [0, 1], intervals Wilson's of 95 %."""
    verdicts = {judge: _joined([shard.verdicts[judge] for shard in shards]) for judge in shards[0].verdicts}
    attack = config.build_attack()
    labels = subject.dataset.test.labels[: subject.images]
    seconds, in_model = (sum(getattr(shard, name) for shard in shards) for name in ("seconds", "model_seconds"))
    return {
        "model": config.model,
        "data": config.data,
        "split": "test",
        "selection": "first",
        "images": subject.images,
        "attack": {"name": config.attack, **keywords(attack)},
        "dtype": config.dtype,
        "judge": JUDGE,
        "accuracy": {
            judge: {"clean": _share(verdict.clean), "robust": _share(verdict.robust)}
            for judge, verdict in verdicts.items()
        },
        "classes": _classes(subject.dataset.class_names, labels, verdicts[JUDGE]),
        "largest_distance": max(shard.distance for shard in shards),
        "seconds": {"attack": seconds, "model": in_model, "update": seconds - in_model},
        "origin": dict(origin),
    }


def _joined(verdicts: Sequence[Verdict]) -> Verdict:
    return Verdict(*([each for verdict in verdicts for each in getattr(verdict, kind)] for kind in ("clean", "robust")))


def _share(correct: Sequence[bool]) -> dict[str, Any]:
    return {
        "correct": sum(correct),
        "accuracy": sum(correct) / len(correct),
        "interval": list(wilson(sum(correct), len(correct))),
    }


def _classes(names: Sequence[str], labels: Tensor, verdict: Verdict) -> list[dict[str, Any]]:
    """Return the counts of each class; a class without an image among those attacked has zeros."""
    rows = [{"name": name, "images": 0, "clean": 0, "robust": 0} for name in names]
    for label, clean, robust in zip(labels.tolist(), verdict.clean, verdict.robust, strict=True):
        row = rows[label]
        for count, more in (("images", 1), ("clean", clean), ("robust", robust)):
            row[count] += more
    return rows


def _summary(config: AttackConfig, result: Mapping[str, Any]) -> str:
    rows = [["", "correct", "accuracy, %", "95 % interval, %"]]
    for judge in (JUDGE, *(each for each in result["accuracy"] if each != JUDGE)):
        for kind, label in (("clean", "clean"), ("robust", f"under {config.attack}")):
            share = result["accuracy"][judge][kind]
            low, high = (f"{100 * bound:.2f}" for bound in share["interval"])
            name = label if judge == JUDGE else f"{label}, judged in {judge}"
            row = [name, f"{share['correct']} of {result['images']}", f"{100 * share['accuracy']:.2f}"]
            rows.append([*row, f"{low} to {high}"])
    settings = ", ".join(f"{name}={value}" for name, value in result["attack"].items() if name not in ("name", "eps"))
    seconds = result["seconds"]
    notes = (
        f"Attack: {config.attack}(eps={_pixels(config.eps)}, {settings}) on a copy frozen in {config.dtype}; "
        f"{config.model} as loaded, in {JUDGE}, judges.",
        "Under attack, an image counts where it is classified correctly both as it is and after the attack.",
        f"Images: the first {result['images']} of the test split of {config.data}.",
        f"Largest distance from a clean image: {_pixels(result['largest_distance'])}, in the attack's norm.",
        "Interval: Wilson's score interval, over images.",
        f"Time: {seconds['attack']:.1f} s in the attack, {result['images'] / seconds['attack']:,.1f} images/s; "
        f"{seconds['model']:.1f} s of it in the network, {seconds['update']:.1f} s in losses, steps and projections.",
    )
    return render_table(rows) + "\n\n" + "\n".join(f"- {note}" for note in notes)


def _pixels(length: float) -> str:
    """Return a length in pixels of [0, 1], and in units of 1/255."""
    return f"{length:.7g} = {255 * length:.6g}/255"


def _class_table(config: AttackConfig, result: Mapping[str, Any]) -> str:
    rows = [["class", "images", "clean, %", f"under {config.attack}, %"]]
    for entry in result["classes"]:
        shares = (
            f"{100 * entry[kind] / entry['images']:.1f}" if entry["images"] else "" for kind in ("clean", "robust")
        )
        rows.append([entry["name"], str(entry["images"]), *shares])
    return render_table(rows)
