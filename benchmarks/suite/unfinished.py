"""Rows that a run has measured so far, kept beside where its results go, so that an interrupted run can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.suite import results

# Of what the numbers depend on, what is not the same twice on one machine.
MOMENTARY = ("clock", "load_before", "date", "copy_bytes_per_second", "note")


class Other(Exception):
    """The interrupted run was not the one that is to go on."""


def beside(output: Path) -> Path:
    return output.with_suffix(".unfinished")


def save(path: Path, measured: Mapping[str, Any]) -> None:
    """All at once: after a kill the file is what it was before or what it is to be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(measured) + "\n")
    draft.replace(path)


def load(path: Path, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Read what ``path`` holds, to be gone on with; ``fresh`` is what the run would begin with.

    Cases that failed are tried again. Raises Other for another machine, version or choice of opponents.
    """
    measured = results.read(path)
    before, now = _lasting(measured), _lasting(json.loads(json.dumps(fresh)))
    for key in before | now:
        if before.get(key) != now.get(key):
            raise Other(f"{path} was measured with {key} {before.get(key)!r}, this run has {now.get(key)!r}")
    measured["machine"]["note"] = "Measured in parts, between which it was interrupted"
    return measured | {"not_timed": []}


def _lasting(measured: Mapping[str, Any]) -> dict[str, Any]:
    machine = {key: value for key, value in measured["machine"].items() if key not in MOMENTARY}
    return machine | {"--all": measured["everything"]}
