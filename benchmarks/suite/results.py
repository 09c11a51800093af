"""Files of results: JSON with everything, and beside it CSV with a line a case and variant."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"
COLUMNS = (
    "case",
    "op",
    "variant",
    "seconds",
    "low_quartile",
    "high_quartile",
    "ratio_to_fused",
    "ratio_low",
    "ratio_high",
    "cold_seconds",
    "cold_ratio_to_fused",
    "peak_bytes",
    "difference",
    "bytes",
    "operations",
    "share_of_floor",
    "missing",
)


def write(path: Path, results: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    with path.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for row in results["rows"]:
            table.writerows(lines(row))


def read(path: Path) -> dict[str, Any]:
    """Read what was written. Raises OSError where there is no such file, ValueError where it holds something else."""
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} holds no JSON: {error}") from None
    if not isinstance(found, dict) or "rows" not in found:
        raise ValueError(f"{path} holds no results of this suite")
    return found


def files() -> list[Path]:
    """The committed results of this suite; those of ``make gpu-check`` have another form."""
    return sorted(path for path in FOLDER.glob("*.json") if not path.stem.endswith("-check"))


def lines(row: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Lines of the CSV for a row: a line a variant, and a line with the reason for one that is missing."""
    for variant, times in row["seconds"].items():
        ratio = row["ratio_to_fused"].get(variant, {})
        line = {
            "case": row["case"],
            "op": row["op"],
            "variant": variant,
            "seconds": times["median"],
            "low_quartile": times["low"],
            "high_quartile": times["high"],
            "ratio_to_fused": ratio.get("median"),
            "ratio_low": ratio.get("low"),
            "ratio_high": ratio.get("high"),
            "cold_seconds": row["cold_seconds"].get(variant, {}).get("median"),
            "cold_ratio_to_fused": row["cold_ratio_to_fused"].get(variant, {}).get("median"),
            "peak_bytes": row["peak_bytes"].get(variant),
            "difference": row["differences"].get(variant),
        }
        if variant == "fused":
            line |= {name: row.get(name) for name in ("bytes", "operations", "share_of_floor")}
        yield line
    for variant, reason in row["missing"].items():
        yield {"case": row["case"], "op": row["op"], "variant": variant, "missing": reason}
