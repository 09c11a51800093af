"""Measures one case: correctness first, then all variants side by side, warm and cold, and the memory they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.suite.case import Call, Case, Entry, Missing
from benchmarks.suite.floor import Floor
from benchmarks.suite.measure import (
    COLD,
    Clock,
    ColdClock,
    Effort,
    interleaved,
    network_share,
    peak_bytes,
    replayed,
    warm_clock,
)
from benchmarks.suite.spread import Spread, ratio

Row = dict[str, Any]


class Differs(Exception):
    """A case's result is not what its formula gives."""


@dataclass(frozen=True)
class Conditions:
    """Options of the measurement of the cases.

    Attributes:
        cold: times calls one by one after the caches have been overwritten; None leaves that out.
        everything: compile every case, and with mode="max-autotune" too.
        profiled: tell which share of a case is its network's, by PyTorch's profiler.
    """

    device: torch.device
    warm: Clock
    cold: Clock | None
    effort: Effort
    everything: bool = False
    profiled: bool = True

    @classmethod
    def of(cls, device: torch.device, *, everything: bool = False) -> Conditions:
        return cls(device, warm_clock(device), ColdClock(device), Effort(), everything)


def run(entry: Entry, conditions: Conditions, floor: Floor | None = None) -> Row:
    """The row of one case. Raises Differs where the fused or the eager result is wrong; then nothing is timed."""
    case = entry.build(conditions.device)
    variants, missing = variants_of(case, entry, conditions)
    variants, differences, different = agreeing(case, variants)
    missing |= different
    taken = interleaved(variants, conditions.warm, conditions.effort)
    seconds = {name: Spread.of(values) for name, values in taken.items()}
    row: Row = {
        "case": entry.name,
        "op": entry.op,
        "sweeps": [sweep._asdict() for sweep in entry.sweeps],
        "agreement": case.agreement,
        "note": case.note,
        "differences": differences,
        "rounds": len(taken["fused"]),
        "seconds": {name: vars(spread) for name, spread in seconds.items()},
        "ratio_to_fused": _ratios(taken),
        "missing": missing,
        "peak_bytes": {
            name: peak_bytes(call, conditions.device) for name, call in variants.items() if name != "replayed"
        },
        "bytes_per_second": {},
        "cold_seconds": {},
        "cold_ratio_to_fused": {},
    }
    if case.work is None:
        if conditions.profiled:
            row["network_share"] = network_share(case.fused, conditions.device)
        return row
    row |= vars(case.work)
    row["bytes_per_second"] = {
        name: case.work.bytes / seconds[name].median for name in ("fused", "replayed") if name in seconds
    }
    if floor is not None:
        row["floor_seconds"] = floor.seconds(case.work.bytes)
        row["share_of_floor"] = row["floor_seconds"] / seconds["fused"].median
    if conditions.cold is not None:
        taken = interleaved(variants, conditions.cold, COLD)
        row["cold_seconds"] = {name: vars(Spread.of(values)) for name, values in taken.items()}
        row["cold_ratio_to_fused"] = _ratios(taken)
        if floor is not None:
            cold = floor.seconds(case.work.bytes, cold=True)
            row["cold_share_of_floor"] = cold / row["cold_seconds"]["fused"]["median"]
    return row


def variants_of(case: Case, entry: Entry, conditions: Conditions) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of a row by name, and why the others are missing."""
    variants: dict[str, Call] = {"fused": case.fused, "eager": case.call(case.eager)}
    missing = {}
    if case.not_compiled:
        missing["compiled"] = case.not_compiled
    elif not (entry.compiled or conditions.everything):
        missing["compiled"] = "compiled with --all only"
    else:
        # A graph a case: shapes compiled for one must not become dynamic for the next.
        torch._dynamo.reset()
        # Else a formula that asks autograd for its gradient is compiled in pieces, several times as slow as in one.
        if hasattr(torch._dynamo.config, "trace_autograd_ops"):  # not in every PyTorch
            torch._dynamo.config.trace_autograd_ops = True
        variants["compiled"] = case.call(torch.compile(case.eager))
        if conditions.everything:
            variants["max-autotune"] = case.call(torch.compile(case.eager, mode="max-autotune"))
    for name, build in case.opponents.items():
        try:
            variants[name] = build()
        except Missing as reason:
            missing[name] = str(reason)
    if conditions.device.type == "cuda":
        try:
            variants["replayed"] = replayed(case.fused)
        except RuntimeError as error:
            missing["replayed"] = f"no CUDA graph: {str(error).splitlines()[0]}"
    return variants, missing


def agreeing(case: Case, variants: Mapping[str, Call]) -> tuple[dict[str, Call], dict[str, float], dict[str, str]]:
    """The variants whose results are right, by how much each differs, and what is wrong with the others."""
    expected = case.expected()
    right, differences, wrong = {}, {}, {}
    for name, call in variants.items():
        try:
            difference = case.difference(call(), expected)
        except Exception as error:
            if name in ("fused", "eager", "replayed"):
                raise
            # Of a compiler or of another library, none of which may cost us the row.
            wrong[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            continue
        bound = case.atol if name in ("fused", "replayed") or case.opponents_atol is None else case.opponents_atol
        if difference <= bound:
            right[name], differences[name] = call, difference
        elif name in ("fused", "eager", "replayed"):
            raise Differs(f"{name}: results differ by {difference:.2e}, more than {bound:.0e}; nothing was timed")
        else:
            wrong[name] = f"results differ by {difference:.2e}, more than {bound:.0e}"
    return right, differences, wrong


def _ratios(taken: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: vars(ratio(values, taken["fused"])) for name, values in taken.items() if name != "fused"}
