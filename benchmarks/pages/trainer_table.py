"""Write what the trainer found: ``python -m benchmarks.pages.trainer_table``.

From each results.json that was committed with a run's report under results/: the demo's run into README.md, all of them
into results/README.md, where those that train the same student on the same data stand in one table. A run without a
baseline of its own is part of the comparison of a run that has one, where teacher and training are the same.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages.markers import filled
from fastadv.train.config.resume import FREE
from fastadv.train.report.results import FILE, RunResults, read_results
from fastadv.train.report.tables import PAIRING, difference_cells, render_table, result_cells, teacher_label
from fastadv.train.report.training_report import comparison_table, protocol, result_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DEMO = "digits-demo"
# On the front page.
SHOWN = (DEMO, "cifar100-cpu", "cifar100-cpu-controls")
HEADS = ["method", "n", "clean, %", "minus baseline", "under PGD, %", "minus baseline", "pairs"]

# By the names of their folders.
Runs = Mapping[str, RunResults]


def main() -> None:
    for page, sections in pages().items():
        text = page.read_text()
        for name, between in sections.items():
            text = filled(text, name, between)
        page.write_text(text)
        print(f"wrote {page}")


def pages(results: Path = RESULTS) -> dict[Path, dict[str, str]]:
    """Text between the markers of each name, page by page."""
    runs = {path.parent.name: read_results(path.parent) for path in results.glob(f"*/{FILE}")}
    shown = {folder: runs[folder] for folder in SHOWN if folder in runs}
    demo = runs.pop(DEMO)
    return {
        ROOT / "README.md": {"what runs found": in_short(shown)},
        RESULTS / "README.md": {"the demo": one_run(DEMO, demo), "the systems": several_runs(runs)},
    }


def one_run(folder: str, run: RunResults) -> str:
    """A run's tables, what their numbers are, and where they come from."""
    report = f"[its report]({folder}/report.md) has each seed and the curves"
    parts = [f"### {run.title}", result_table(run), wrapped(" ".join([*protocol(run), f"{made(run)}; {report}."]))]
    differences = comparison_table(run)
    if differences is not None:
        parts += [differences, wrapped(PAIRING)]
    return "\n\n".join(parts)


def several_runs(runs: Runs) -> str:
    """A table for each dataset and student, of all the runs that train it: those of most methods first."""

    def group(folder: str) -> tuple[str, str]:
        return runs[folder].config["data"], runs[folder].config["student"]

    folders = sorted(runs, key=lambda folder: (group(folder), -len(runs[folder].methods), folder))
    tables = [one_table({folder: runs[folder] for folder in same}) for _, same in itertools.groupby(folders, group)]
    return "\n\n".join(tables) if tables else "No run is committed."


def in_short(runs: Runs) -> str:
    """The runs' table for the front page, which leaves each protocol to its report."""
    blocks = _comparisons(runs)
    rows = [HEADS, *(row for parts in blocks for row in _rows(parts))]
    notes = []
    for parts in blocks:
        first = next(iter(parts.values()))
        made = [
            f"{where(run)} ([report and command](benchmarks/results/{folder}/report.md))"
            for folder, run in parts.items()
        ]
        training = f"{first.config['epochs']} epochs, PGD of eps {first.config['eval_eps']:.4g}"
        notes.append(wrapped(f"- {first.title}: {training}; made{' and'.join(made)}.", indent="  "))
    note = (
        "Mean ± standard deviation of n seeds; differences in points, paired by seed, with the 95 % t interval of their"
        " mean."
    )
    return "\n".join([render_table(rows), "", wrapped(note), *notes])


def one_table(runs: Runs) -> str:
    """Every run's teacher and below it its students, what holds for all of them, and what for each run alone."""
    rows = [HEADS, *(row for parts in _comparisons(runs) for row in _rows(parts))]
    facts = {folder: protocol(run) for folder, run in runs.items()}
    shared = [fact for fact in next(iter(facts.values())) if all(fact in others for others in facts.values())]
    notes = [
        wrapped(
            f"- [{folder}]({folder}/report.md): "
            + " ".join([*(fact for fact in facts[folder] if fact not in shared), f"{made(run)}."]),
            indent="  ",
        )
        for folder, run in runs.items()
    ]
    first = next(iter(runs.values()))
    explained = [
        "Students are below their teacher; differences are points, from the baseline below the same teacher.",
        PAIRING,
        *shared,
    ]
    title = f"### {first.config['student']} on {first.config['data']}"
    return "\n\n".join([title, render_table(rows), wrapped(" ".join(explained)), "\n".join(notes)])


def _comparisons(runs: Runs) -> list[Runs]:
    """Each run with those beside it that have no baseline of their own, but its teacher and training."""
    found: dict[str, dict[str, RunResults]] = {}
    for folder, run in runs.items():
        alike = (other for other in runs if runs[other].baseline and _training(runs[other]) == _training(run))
        first = folder if run.baseline else next(alike, folder)
        found.setdefault(first, {first: runs[first]})[folder] = run
    return list(found.values())


def _training(run: RunResults) -> Mapping[str, Any]:
    """The teacher, and how students are trained and evaluated: all but methods and seeds."""
    apart = (*FREE, "methods", "seeds", "options")
    # "none" is also what a setting says that older runs did not have.
    config = {name: value for name, value in run.config.items() if name not in apart and value != "none"}
    checkpoint = "Teacher checkpoint SHA-256"
    return {**config, checkpoint: run.origin.get(checkpoint)}


def _rows(parts: Runs) -> Iterator[list[str]]:
    """Under HEADS: the teacher, then each method beside the baseline."""
    runs = list(parts.values())
    first = runs[0]
    if first.teacher is not None:
        trained = "loaded" if first.teacher_method is None else first.teacher_method
        yield _row(result_cells(f"*{teacher_label(first)}, {trained}*", [first.teacher]), ["", "", ""])
    baseline = first.baseline or first.methods[0]
    for method in itertools.chain.from_iterable(run.methods for run in runs):
        differences = ["baseline", "", ""] if method == baseline else difference_cells(method, baseline)
        yield _row(result_cells(method.label, method.seeds), differences)


def _row(results: list[str], differences: list[str]) -> list[str]:
    """Each accuracy beside its difference."""
    label, n, clean, robust = results
    of_clean, of_robust, pairs = differences
    return [label, n, clean, of_clean, robust, of_robust, pairs]


def made(run: RunResults) -> str:
    return f"Made by `{run.origin['Command']}`{where(run)}"


def where(run: RunResults) -> str:
    commit = f" at {run.origin['Commit'][:7]}" if "Commit" in run.origin else ""
    return f"{commit} on {run.origin.get('GPU', run.origin['CPU'])}"


def wrapped(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)


if __name__ == "__main__":
    main()
