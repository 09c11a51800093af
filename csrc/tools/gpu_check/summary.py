"""The results of a call: one file to keep, and a page of at most 10,000 characters, from what lies in its folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_check.lines import lines_of, object_of

MOST_CHARACTERS = 10_000
# What lists of failures and reasons may take of it.
FAILURE_CHARACTERS, REASON_CHARACTERS = 3_500, 1_500
VARIANTS = ("fused", "eager", "compiled", "replayed")


def collect(out: Path) -> dict[str, Any]:
    """Return all results in the folder, whatever of them is there."""
    rows = lines_of(out / "rows.jsonl")
    return {
        "facts": object_of(out / "facts.json"),
        "parts": lines_of(out / "parts.jsonl"),
        "tests": _once(lines_of(out / "tests.jsonl")),
        "floor": next((line["floor"] for line in reversed(rows) if "floor" in line), None),
        "rows": _last_states(rows),
    }


def _once(tests: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A line for each test: that of its first failure, such as the CUDA error that ended its process, else its first.

    pytest-xdist tells of such a test again, as the one that crashed its worker.
    """
    kept: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in tests:
        key = (line["step"], line["test"])
        if key not in kept or (line["outcome"] == "failed" and kept[key]["outcome"] != "failed"):
            kept[key] = line
    return list(kept.values())


def _last_states(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last line of each row; one that was begun alone has failed, as nobody came to say otherwise."""
    last = {(line["case"], line.get("backend"), line.get("compiled")): line for line in lines if "case" in line}
    unfinished = {"state": "failed", "said": "begun, and neither measured nor told why not"}
    return [line if line["state"] != "begun" else {**line, **unfinished} for line in last.values()]


def write(out: Path) -> str:
    """Write results.json and summary.txt, and return the latter."""
    results = collect(out)
    kept = results | {"tests": _counts(results["tests"]), "failed_tests": _failures(results["tests"])}
    (out / "results.json").write_text(json.dumps(kept, indent=1) + "\n")
    text = page(results)
    (out / "summary.txt").write_text(text)
    return text


def head_of(results: Mapping[str, Any]) -> list[str]:
    """Return the lines that begin the page of any call: its facts, and how each part ended."""
    facts = [f"{name}: {fact}" for name, fact in results["facts"].items()] or ["no facts"]
    return [*facts, "", *(f"{part['part']:12}{part['outcome']:9}{part['seconds']:7.1f} s" for part in results["parts"])]


def reasons_of(results: Mapping[str, Any]) -> str:
    """Return the section that says why parts did not pass, empty where there is nothing to say."""
    reasons = [f"{part['part']}: {reason}" for part in results["parts"] for reason in part["reasons"]]
    return fitting("reasons", reasons, REASON_CHARACTERS, "parts.jsonl")


def page(results: Mapping[str, Any]) -> str:
    """Return the page; what does not fit is counted, and lies in the files."""
    head = head_of(results)
    counts = _counts(results["tests"])
    head += [
        f"{step or 'tests'}: " + ", ".join(f"{n} {what}" for what, n in found.items()) for step, found in counts.items()
    ]
    text = "\n".join(head)[:3_000] + "\n" + reasons_of(results)
    failed_rows = [f"{row['case']}: {row['said']}" for row in results["rows"] if row["state"] == "failed"]
    text += fitting(
        "failures", _failures(results["tests"]) + failed_rows, FAILURE_CHARACTERS, "tests.jsonl, rows.jsonl"
    )
    return text + fitting("microseconds", _table(results), MOST_CHARACTERS - len(text) - 100, "rows.jsonl")


def _table(results: Mapping[str, Any]) -> list[str]:
    """Medians, and the time of a copy of as many bytes as a share of the replays'."""
    measured = [line for line in results["rows"] if line["state"] == "measured"]
    lines = []
    for line in measured:
        row = line["row"]
        times = "".join(
            f"{row['seconds'][name]['median'] * 1e6:10.1f}" if name in row["seconds"] else f"{'-':>10}"
            for name in VARIANTS
        )
        replays = row["seconds"].get("replayed")
        share = f"{row['floor_seconds'] / replays['median']:7.2f}" if replays and "floor_seconds" in row else ""
        label = "" if line["backend"] == "cuda" else f" ({line['backend']})"
        lines.append(f"{line['case'][:52] + label:62}{times}{share}")
    header = f"{'':62}" + "".join(f"{name:>10}" for name in VARIANTS) + "  share"
    return [header, *lines] if lines else []


def fitting(title: str, lines: Sequence[str], room: int, files: str) -> str:
    """Return a titled list as far as it fits, and the ``files`` in which the rest lies."""
    if not lines:
        return ""
    text, taken = f"\n{title}\n", 0
    for line in lines:
        shown = line[:240]
        if len(text) + len(shown) + 60 > room and taken:
            break
        text += shown + "\n"
        taken += 1
    left = len(lines) - taken
    return text + (f"... and {left} more in {files}\n" if left else "")


def _counts(tests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Outcomes by step."""
    counts: dict[str, Counter[str]] = {}
    for test in tests:
        counts.setdefault(test["step"], Counter())[test["outcome"]] += 1
    return {step: dict(found) for step, found in counts.items()}


def _failures(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{test['test']}: {test.get('said', '')}" for test in tests if test["outcome"] == "failed"]
