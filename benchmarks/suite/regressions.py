"""Rows that have become slower since results were committed, by more than the noise. For people: no test asks this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What ratios move by between two runs of the same code on the same machine.
BETWEEN_RUNS = 1.2
# What both runs must have been made with for times to say something of the code.
CONDITIONS = ("cpu", "gpu", "threads", "vector_instructions", "torch", "served_by")


@dataclass(frozen=True)
class Slower:
    """A case by how much its fused call takes longer, and by how much less it gains over the eager formula."""

    case: str
    times: float
    lost: float


def slower(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Slower]:
    """The cases of both results whose fused call is slower by more than the noise, the worst first.

    The noise: the quartiles of both runs' times and the intervals of their ratios to the eager formula, in which a
    slower machine cancels, must be apart, and both be worse by more than runs of the same code differ.
    """
    earlier = {row["case"]: row for row in before["rows"]}
    found = []
    for row in now["rows"]:
        if row["case"] not in earlier:
            continue
        old, new = earlier[row["case"]], row
        times = new["seconds"]["fused"]["median"] / old["seconds"]["fused"]["median"]
        lost = old["ratio_to_fused"]["eager"]["median"] / new["ratio_to_fused"]["eager"]["median"]
        longer = new["seconds"]["fused"]["low"] > old["seconds"]["fused"]["high"]
        apart = longer and new["ratio_to_fused"]["eager"]["high"] < old["ratio_to_fused"]["eager"]["low"]
        if apart and min(times, lost) > BETWEEN_RUNS:
            found.append(Slower(row["case"], times, lost))
    return sorted(found, key=lambda case: -min(case.times, case.lost))


def unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what the two runs differ beside the code: another number of threads moves ratios too."""
    old, new = before["machine"], now["machine"]
    return [f"{key} {old.get(key)} there, {new.get(key)} here" for key in CONDITIONS if old.get(key) != new.get(key)]


def report(found: list[Slower], unlike: list[str], file: str) -> str:
    lines = [f"not measured alike, which may be all that follows shows: {'; '.join(unlike)}"] if unlike else []
    if not found:
        return "\n".join([*lines, f"nothing is slower than in {file} by more than the noise"])
    lines += [f"slower than in {file} by more than the noise: the time, and the gain over eager that is lost"]
    lines += [f"  {case.case:60}{case.times:6.2f} x{case.lost:8.2f} x" for case in found]
    return "\n".join(lines)
