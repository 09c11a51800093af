"""The results of a call: one file to keep, and a page, from what lies in its folder and in those of its trainings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_check.lines import lines_of, object_of
from gpu_check.summary import fitting, head_of, reasons_of

from fastadv.train.config.train_config import Config
from fastadv.train.runtime.files import write_atomically
from gpu_reproduce.plan import Plan
from gpu_reproduce.runs import MIB, carried

MOST_CHARACTERS = 10_000
HEADS = ("clean, %", "PGD, %", "attack, %", "images", "steps", "seconds", "images/s")


def collect(out: Path, runs: Path, names: Sequence[str], largest: int) -> dict[str, Any]:
    """Return all results, whatever of them is there."""
    return {
        "facts": object_of(out / "facts.json"),
        "parts": lines_of(out / "parts.jsonl"),
        "plans": lines_of(out / "plan.jsonl"),
        "runs": {name: _run(runs / name, largest) for name in names if (runs / name / Config.FILE).exists()},
    }


def _run(run: Path, largest: int) -> dict[str, Any]:
    """The configuration of a run, and of each of its students the result, or the steps that are saved so far."""
    config = Config.read_toml(run / Config.FILE)
    students = {
        folder.name: _result(folder) or {"saved_steps": _saved_steps(folder)}
        for folder in (run / f"{method}-seed{seed}" for seed in config["seeds"] for method in config["methods"])
    }
    behind = {str(path.relative_to(run)): path.stat().st_size for path in carried(run, largest)[1]}
    return {"config": config, "teacher": _result(run / "teacher"), "students": students, "left_behind": behind}


def _result(folder: Path) -> dict[str, Any] | None:
    """The result, and of a last attack that is not over what there is on its first images."""
    result = object_of(folder / "result.json")
    first = object_of(folder / "attack" / "result.json")
    if result and "robust" in first:
        result.setdefault("attack", {"images": first["images"], **first["robust"]})
    return result or None


def _saved_steps(folder: Path) -> int:
    return max((int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/step-*.pt")), default=0)


def write(out: Path, runs: Path, names: Sequence[str], largest: int) -> str:
    """Write results.json and summary.txt, and return the latter."""
    results = collect(out, runs, names, largest)
    write_atomically(out / "results.json", lambda file: file.write(json.dumps(results, indent=1).encode() + b"\n"))
    text = page(results)
    (out / "summary.txt").write_text(text)
    return text


def page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    text = "\n".join(head_of(results)) + "\n" + reasons_of(results)
    text += fitting("time", [str(Plan(**plan)) for plan in results["plans"]], 2_000, "plan.jsonl")
    for name, run in results["runs"].items():
        text += fitting(_title(name, run), _table(run), 3_000, "results.json")
    return text[:MOST_CHARACTERS]


def _title(name: str, run: Mapping[str, Any]) -> str:
    config, students = run["config"], run["students"]
    finished = sum("clean" in found for found in students.values())
    teacher = "" if run["teacher"] is None else f"{config['teacher']} ({100 * run['teacher']['clean']:.2f} % clean) to "
    return f"{name}: {teacher}{config['student']}, {config['epochs']} epochs, {finished} of {len(students)} finished"


def _table(run: Mapping[str, Any]) -> list[str]:
    """A line for each student, and what its archive leaves behind."""
    lines = [f"{'':24}" + "".join(f"{head:>12}" for head in HEADS)]
    for name, found in run["students"].items():
        if "clean" not in found:
            left = run["config"]["epochs"] * run["config"]["steps_per_epoch"] - found["saved_steps"]
            lines.append(f"{name:24}not finished: {found['saved_steps']} steps are saved, {left} are left")
            continue
        attack = found.get("attack")
        attacked = [f"{100 * attack['accuracy']:.2f}", str(attack["images"])] if attack else ["-", "-"]
        cells = [f"{100 * found['clean']:.2f}", f"{100 * found['pgd']:.2f}", *attacked]
        cells += [str(found["steps"]), f"{found['seconds']:.1f}", f"{found['images_per_second']:,.0f}"]
        lines.append(f"{name:24}" + "".join(f"{cell:>12}" for cell in cells))
    return lines + [f"left behind: {path}, {size / MIB:.0f} MiB" for path, size in run["left_behind"].items()]
