"""One machine's results as Markdown: what was lost, what was won, against the floor, the memory, the scaling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages import reasons
from benchmarks.pages.families import FAMILIES, Family
from benchmarks.pages.scaling import curves, projection

Results = Mapping[str, Any]
Row = Mapping[str, Any]
MAIN = ("eager", "compiled")
DASH = "-"
UNEXPLAINED = "**not explained yet**"


def machine_page(name: str, results: Results, pictures: Mapping[str, str]) -> str:
    """Everything the page says of one file of results; ``pictures``: links by what they show."""
    rows = results["rows"]
    sections = [
        f"## {name}\n\n{about(results['machine'])} From `results/{name}.json`; the same as CSV beside it.",
        f"### Where fastadv loses\n\n{losses(rows)}",
        f"### Every case\n\n{HEADER_NOTE}",
        *(family_section(family, found, pictures) for family in FAMILIES if (found := family.rows(rows))),
        "### What keeps a row from being faster\n\n"
        + explanations(rows, results["floor"], on_gpu=on_gpu(results["machine"])),
        _joined("### The machine itself", pictures.get("roofline"), overhead_table(results["overhead"]))
        + f"\n\n{floor_table(results['floor'])}",
        f"### Memory\n\n{memory_table(rows)}",
        f"### The least work\n\n{work_table(rows)}",
        _joined("### Scaling", pictures.get("scaling"), scaling_table(results)),
        "### What a larger run would need\n\n" + "\n\n".join(projection(results)),
    ]
    if results["not_timed"]:
        sections.insert(1, "Not timed, because results differed or a call failed:\n\n" + bullets(results["not_timed"]))
    return "\n\n".join(sections)


def family_section(family: Family, rows: Sequence[Row], pictures: Mapping[str, str]) -> str:
    """The picture and the table of a family, what is to be known of its rows, and why an opponent is missing."""
    title = f"#### {family.title}"
    return _joined(title, family.about, pictures.get(family.key), main_table(rows), notes(rows), absent(rows))


def _joined(*parts: str | None) -> str:
    return "\n\n".join(part for part in parts if part)


HEADER_NOTE = (
    "Medians; ratios are the opponent's time over fastadv's, above 1 where fastadv is faster, and the 95 % interval of "
    "that median within the run. The floor is the time of a copy that moves as many bytes as the call must; its share "
    "of the call's time, with warm caches / with emptied ones. Peak: the memory a call takes beyond its inputs."
)


def about(machine: Mapping[str, Any]) -> str:
    gpu = machine["gpu"] if on_gpu(machine) else "not run on a GPU yet"
    facts = [
        machine["cpu"],
        gpu,
        f"threads: {machine['threads']}",
        machine["vector_instructions"],
        f"Python {machine['python']}",
        f"torch {machine['torch']}",
        f"fastadv {machine['fastadv']}",
        f"served by {machine['served_by']}",
    ]
    for key, label in (("clock", "clock"), ("load_before", "load before"), ("date", "measured on")):
        if key in machine:
            facts.append(f"{label} {machine[key]}")
    facts += [f"{name} {version}" for name, version in machine.get("others", {}).items()]
    note = f" {machine['note']}." if "note" in machine else ""
    return ", ".join(facts) + "." + note


def on_gpu(machine: Mapping[str, Any]) -> bool:
    return not machine["gpu"].startswith("none")


def losses(rows: Sequence[Row]) -> str:
    """Every opponent that is faster, warm or cold, and every one that cannot be told apart."""
    slower, even = [], []
    pairs = 0
    for row in rows:
        for temperature, ratios in (("", row["ratio_to_fused"]), (", cold", row["cold_ratio_to_fused"])):
            for name, ratio in ratios.items():
                if name == "replayed":
                    continue
                pairs += 1
                line = f"{row['case']}{temperature}: {name} / fused {spread(ratio)}"
                if ratio["high"] < 1:
                    slower.append(line)
                elif ratio["low"] <= 1:
                    even.append(line)
    text = f"{len(slower)} of {pairs} comparisons are lost"
    text += f", {len(even)} are even within their interval." if even else "."
    if slower:
        text += "\n\nLost:\n\n" + bullets(slower)
    if even:
        text += "\n\nEven:\n\n" + bullets(even)
    if thirsty := [line for row in rows for line in _more_memory(row)]:
        text += "\n\nTake more memory than an opponent:\n\n" + bullets(thirsty)
    return text


def counted(rows: Sequence[Row]) -> str:
    """Numbers of comparisons that are lost and that are even."""
    return losses(rows).splitlines()[0].rstrip(".")


def _more_memory(row: Row) -> Iterator[str]:
    peak = row["peak_bytes"]
    for name, size in peak.items():
        if peak["fused"] > 1.01 * size:
            yield f"{row['case']}: {kibibytes(peak['fused'])} KiB, {name} {kibibytes(size)} KiB"


def main_table(rows: Sequence[Row]) -> str:
    """A line a case; a column that would have nothing but dashes is left out."""
    head = ["case", "fused, us", "eager, us", "compiled, us", "eager / fused", "compiled / fused", "others / fused"]
    table = [[*head, "eager / fused, cold", "share of floor", "peak, KiB"]]
    for row in rows:
        others = [
            f"{name} {spread(ratio)}"
            for name, ratio in row["ratio_to_fused"].items()
            if name not in (*MAIN, "replayed")
        ]
        table.append(
            [
                row["case"],
                *(microseconds(row["seconds"].get(name)) for name in ("fused", *MAIN)),
                *(spread(row["ratio_to_fused"].get(name)) for name in MAIN),
                "; ".join(others) or DASH,
                spread(row["cold_ratio_to_fused"].get("eager")),
                _shares(row),
                kibibytes(row["peak_bytes"].get("fused")),
            ]
        )
    filled = [number for number in range(len(table[0])) if any(line[number] != DASH for line in table[1:])]
    return markdown([[line[number] for number in filled] for line in table])


def _shares(row: Row) -> str:
    """Of the floor, warm and cold."""
    if "share_of_floor" not in row:
        return DASH
    return f"{share(row['share_of_floor'])} / {share(row.get('cold_share_of_floor'))}"


def notes(rows: Sequence[Row]) -> str:
    """Notes on the two sides of a row, where there are any."""
    lines = [f"{row['case']}: {row['note']}" for row in rows if row.get("note")]
    return f"Of what both sides do:\n\n{bullets(lines)}" if lines else ""


def absent(rows: Sequence[Row]) -> str:
    """Reasons why a figure is a dash, with the cases each holds for."""
    cases: dict[str, list[str]] = {}
    for row in rows:
        for name, reason in row["missing"].items():
            cases.setdefault(f"{name}: {reason}", []).append(row["case"])
    if not cases:
        return "No opponent is missing."
    lines = [f"{reason} ({found[0] if len(found) == 1 else f'{len(found)} cases'})" for reason, found in cases.items()]
    return "Missing opponents:\n\n" + bullets(lines)


def explanations(rows: Sequence[Row], floor: Mapping[str, Any] | None = None, *, on_gpu: bool = False) -> str:
    """The rows that are far from their floor or close to torch.compile, and why."""
    table = [["case", "share of floor", "share of arithmetic", "compiled / fused", "why"]]
    for row in rows:
        if found := reasons.of(row, on_gpu=on_gpu):
            compiled = row["ratio_to_fused"].get("compiled")
            why = "; ".join(f"{what}: {reason or UNEXPLAINED}" for what, reason in found.items())
            ratio = f"{compiled['median']:.2f}" if compiled else DASH
            table.append([row["case"], share(row.get("share_of_floor")), share(_arithmetic(row, floor)), ratio, why])
    criteria = (
        f"Every row with less than {reasons.FAR_FROM_FLOOR} of its floor's speed (warm), or with `torch.compile` less "
        f"than {reasons.CLOSE_TO_COMPILED} times as slow. The share of arithmetic: how many of its least "
        "operations the call makes a second, of those that a float32 matrix product makes here."
    )
    return f"{criteria}\n\n{markdown(table) if len(table) > 1 else 'None.'}"


def _arithmetic(row: Row, floor: Mapping[str, Any] | None) -> float | None:
    """The least operations of a row a second, of those of a matrix product; None where either is not known."""
    if floor is None or not row.get("operations"):
        return None
    return row["operations"] / row["seconds"]["fused"]["median"] / floor["operations_per_second"]


def overhead_table(calls: Mapping[str, Any]) -> str:
    table = [["call on the smallest problem", "us", "ratio"]]
    for name, call in calls.items():
        beside = f"{spread(call['ratio'])} x {call['beside']}" if call["ratio"] else ""
        table.append([name, f"{call['seconds']['median'] * 1e6:.1f}", beside])
    return markdown(table)


def floor_table(floor: Mapping[str, Any] | None) -> str:
    if floor is None:
        return "The machine's copies were not measured in this file."
    table = [["copy, bytes read and written", "warm, us", "warm, GB/s", "cold, us", "cold, GB/s"]]
    for copy in floor["copies"]:
        times = [copy["seconds"], copy["cold_seconds"]]
        cells = (cell for time in times for cell in (f"{time * 1e6:,.1f}", f"{copy['bytes'] / time / 1e9:.1f}"))
        table.append([f"{copy['bytes']:,}", *cells])
    product = f"{floor['operations_per_second'] / 1e9:,.0f} G operations/s in {floor['operations_of']}."
    return f"{markdown(table)}\n\n{product}"


def memory_table(rows: Sequence[Row]) -> str:
    """Rows where a formula takes more memory than the fused call, or less."""
    table = [["case", "fused, KiB", "eager, KiB", "compiled, KiB", "eager / fused"]]
    for row in rows:
        peak = row["peak_bytes"]
        if not peak:
            continue
        ratio = f"{peak['eager'] / peak['fused']:.2f}" if peak["fused"] else DASH
        table.append([row["case"], *(kibibytes(peak.get(name)) for name in ("fused", *MAIN)), ratio])
    return markdown(table) if len(table) > 1 else "Not measured in this file."


def work_table(rows: Sequence[Row]) -> str:
    """The formulas behind floors and roofline."""
    table = [["case", "bytes", "operations"]]
    for row in rows:
        if row.get("bytes_formula"):
            table.append(
                [
                    row["case"],
                    f"{row['bytes']:,} = {row['bytes_formula']}",
                    f"{row['operations']:,} = {row['operations_formula']}",
                ]
            )
    note = "Each input read once, each output written once; whatever is stored in between is not counted."
    return f"{note}\n\n{markdown(table)}"


def scaling_table(results: Results) -> str:
    found = curves(results)
    if not found:
        return "No family of sizes was measured in this file."
    table = [["family", "by", "sizes", "fused, us", "eager, us", "exponent", "over all sizes"]]
    for curve in found:
        series = (", ".join(f"{time * 1e6:,.0f}" for time in times) for times in (curve.seconds, curve.eager_seconds))
        sizes = ", ".join(f"{size:,}" for size in curve.sizes)
        table.append([curve.family, curve.axis, sizes, *series, f"{curve.exponent:.2f}", f"{curve.overall:.2f}"])
    return (
        "The exponent k of time ~ size^k, by least squares in logarithms through the upper half of the sizes, where "
        f"the cost of a call shows least, and through all of them.\n\n{markdown(table)}"
    )


def spread(ratio: Mapping[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else DASH


def duration(seconds: float) -> str:
    """In the unit that leaves it between 1 and 1,000."""
    unit, scale = next(
        (unit, scale) for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)) if seconds * scale >= 1 or unit == "us"
    )
    scaled = seconds * scale
    return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {unit}"


def microseconds(seconds: Mapping[str, float] | None) -> str:
    return f"{seconds['median'] * 1e6:,.0f}" if seconds else DASH


def kibibytes(size: float | None) -> str:
    return DASH if size is None else f"{size / 1024:,.1f}"


def share(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *body = rows
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in body)
