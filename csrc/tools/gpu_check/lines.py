"""Files of one JSON object a line, to which several processes add while they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line, in one write: what ends the process hardly ends it within a line."""
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects in the lines of a file, but for lines that were cut off."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def object_of(path: Path) -> dict[str, Any]:
    """Return the object that a whole file is; an empty one where it is not there, or was cut off."""
    try:
        return json.loads(path.read_text(errors="replace"))
    except (FileNotFoundError, ValueError):
        return {}
