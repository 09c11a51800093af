"""Overview in a few lines: ops, attacks and training steps side by side, and how much of each is the network.

From the suite's results and from two studies, which time whole attacks and training steps on networks people use.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.pages.families import FAMILIES, Family
from benchmarks.pages.tables import DASH, counted, duration, markdown, on_gpu

Results = Mapping[str, Any]
Row = Mapping[str, Any]
CALLS = tuple(family for family in FAMILIES if family.key not in ("attacks", "training"))
ATTACKS, TRAINING = (next(family for family in FAMILIES if family.key == key) for key in ("attacks", "training"))
# Rows of the studies, by their names there.
COPIES = ("pgd, float32 copy", "pgd, bfloat16 copy", "pgd, bfloat16 copy, compiled")
TRAINED = ("TALD, float32", "TALD, auto", "AdaAD + IGDM, auto", "PGD-AT, auto", "KD, auto")


class Studies(NamedTuple):
    """The results of :mod:`benchmarks.studies.attack_loops` and :mod:`benchmarks.studies.training_step`."""

    attacks: Results
    training: Results

    def copy(self, name: str) -> Row:
        return self.attacks["rows"][name]

    def step(self, name: str) -> Row:
        return next(row for row in self.training["rows"] if row["row"] == name)


def in_short(results: Results, studies: Studies) -> str:
    """Five lines."""
    rows = results["rows"]
    calls = [row for family in CALLS for row in family.rows(rows)]
    shares = [studies.step(name)["shares"]["model"] for name in TRAINED]
    float32, bfloat16, compiled = (f"{studies.copy(name)['speedup']['median']:.2f}" for name in COPIES)
    float32_tald, tald, igdm, pgd_at, kd = (f"{studies.step(name)['ratio']['plain']['median']:.2f}" for name in TRAINED)
    machine = results["machine"]
    where = machine["gpu"] if on_gpu(machine) else f"{machine['cpu']}, {machine['threads']} threads"
    elsewhere = "" if on_gpu(machine) else f", {machine['vector_instructions']}. Not run on a GPU yet"
    lines = [
        f"**A single call** is {_range(calls, 'eager')} times as fast as the formula in eager PyTorch, and "
        f"{_range(calls, 'compiled')} times as fast as under `torch.compile` ({_count(calls, 'eager')} cases and "
        f"{_count(calls, 'compiled')}; the median, and the least and the most).",
        f"**A whole attack** is nearly all network. Ten steps of PGD on a resnet56 are {float32} times as fast as "
        f"torchattacks' on a folded float32 copy, {bfloat16} on a bfloat16 one, {compiled} on that compiled; on four "
        f"small layers {_range(ATTACKS.rows(rows), 'eager')} times.",
        f"**A training step** of small networks is {_range(TRAINING.rows(rows), 'eager')} times as fast as with the "
        "published formulas: even where both sides make the same passes. The "
        f"trainer's, resnet56 to resnet20, is {float32_tald} times as fast as a plain loop for TALD in float32; with "
        f"`--precision auto` it is {tald} times for TALD, {igdm} for AdaAD with IGDM, {pgd_at} for PGD-AT, {kd} KD; "
        f"networks are {min(shares):.0%} to {max(shares):.0%} of it.",
        f"**Not everything is won:** {counted(rows)}; [these](#where-fastadv-loses).",
        f"**Measured** on {machine['date']} on {where}{elsewhere}.",
    ]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))


def side_by_side(results: Results, studies: Studies) -> str:
    """A line for each family and each row of the studies: how fast, and what share of it is the network's own time."""
    table = [["", "cases", "plain / fastadv", "compiled / fastadv", "the network's share"]]
    for family in FAMILIES:
        found = family.rows(results["rows"])
        if found:
            ratios = (_range(found, opponent) for opponent in ("eager", "compiled"))
            table.append([family.title.lower(), str(len(found)), *ratios, _network(family, found)])
    for name in COPIES:
        row = studies.copy(name)
        share = row["network_share"]
        said = DASH if share is None else f"{share:.1%}"
        label = f"resnet56, PGD of 10 steps against torchattacks: {name}"
        table.append([label, "1", f"{row['speedup']['median']:.2f}", DASH, said])
    for name in TRAINED:
        row = studies.step(name)
        ratio = f"{row['ratio']['plain']['median']:.2f}"
        table.append([f"resnet56 to resnet20: {name}", "1", ratio, DASH, f"{row['shares']['model']:.1%}"])
    return markdown(table)


def front_table(results: Results, studies: Studies, cases: Sequence[str]) -> str:
    """Of those ``cases`` that the file has and of the studies: medians, and how many comparisons all of it has lost."""
    table = [["", "fastadv", "plain PyTorch", "plain / fastadv", "compiled / fastadv", "the network's share"]]
    by_name = {row["case"]: row for row in results["rows"]}
    for row in (by_name[case] for case in cases if case in by_name):
        family = next(family for family in FAMILIES if family.has(row["op"]))
        times = (duration(row["seconds"][name]["median"]) for name in ("fused", "eager"))
        ratios = (row["ratio_to_fused"].get(name) for name in ("eager", "compiled"))
        said = (f"{ratio['median']:.2f}" if ratio else DASH for ratio in ratios)
        table.append([row["case"], *times, *said, _network(family, [row])])
    table += _of_studies(studies)
    parts = {"cases": results, "attacks on resnet56": studies.attacks, "the trainer's step": studies.training}
    versions = ", ".join(f"{what} at {part['machine']['fastadv']}" for what, part in parts.items())
    cases = f"Of all {len(results['rows'])} cases: {counted(results['rows'])}"
    return f"{markdown(table)}\n\n{cases}. Measured: {versions}."


def _of_studies(studies: Studies) -> Iterator[list[str]]:
    plain = duration(studies.copy("torchattacks")["seconds"]["median"])
    for name in COPIES[:2]:
        row = studies.copy(name)
        ratio = f"{row['speedup']['median']:.2f}"
        label = f"attack pgd linf, 10 steps on resnet56, 64x3x32x32: {name.removeprefix('pgd, ')}, against torchattacks"
        ours = duration(row["seconds"]["median"])
        yield [label, ours, plain, ratio, DASH, f"{row['network_share']:.0%}"]
    for name in TRAINED[:3]:
        row = studies.step(name)
        times = (duration(statistics.median(row["seconds"][way])) for way in ("fused", "plain"))
        ratio = f"{row['ratio']['plain']['median']:.2f}"
        label = f"trainer's step, resnet56 to resnet20, 64x3x32x32: {name}"
        yield [label, *times, ratio, DASH, f"{row['shares']['model']:.0%}"]


def _range(rows: Sequence[Row], opponent: str) -> str:
    """The median of the ratios, the least and the most of them."""
    ratios = [row["ratio_to_fused"][opponent]["median"] for row in rows if opponent in row["ratio_to_fused"]]
    if not ratios:
        return DASH
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _count(rows: Sequence[Row], opponent: str) -> int:
    return sum(opponent in row["ratio_to_fused"] for row in rows)


def _network(family: Family, rows: Sequence[Row]) -> str:
    """The network's share of the time of these rows, where it was measured."""
    if family in CALLS:
        return "none"
    shares = [row["network_share"] for row in rows if row.get("network_share") is not None]
    if not shares:
        return "not measured"
    least, most = f"{min(shares):.0%}", f"{max(shares):.0%}"
    return least if least == most else f"{least} to {most}"
