"""Writes the tables of both README.md from the committed results: ``python -m benchmarks.page``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FRONT_PAGE = HERE / "results" / "amd-epyc-2-cores.json"


def main() -> None:
    every = [machine_tables(path) for path in sorted((HERE / "results").glob("*.json"))]
    fill(HERE / "README.md", "\n\n".join(every))
    fill(HERE.parent / "README.md", short_table(FRONT_PAGE))


def fill(page: Path, tables: str) -> None:
    page.write_text(filled(page.read_text(), tables))


def filled(text: str, tables: str) -> str:
    """``text`` with what stands between its two markers replaced by ``tables``."""
    begin, end = "<!-- tables -->\n", "<!-- end of tables -->\n"
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{tables}\n\n{end}", text, count=1, flags=re.DOTALL)


def machine_tables(path: Path) -> str:
    """The heading and the two tables of one machine's results."""
    results = json.loads(path.read_text())
    machine = results["machine"]
    about = (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['vector_instructions']}, torch {machine['torch']}, "
        f"fastadv {machine['fastadv']}, served by {machine['served_by']}; GPU: {machine['gpu']}."
    )
    calls = [["call on the smallest problem", "us", "ratio"]]
    calls += [[name, f"{seconds(row):.1f}", row_ratio(row)] for name, row in results["overhead"].items()]
    rows = [["case", "fused, us", "eager, us", "compiled, us", "eager / fused", "compiled / fused", "GB/s"]]
    rows += [case_row(row) for row in results["rows"]]
    source = f"`results/{path.name}`"
    return f"## {path.stem}\n\n{about} From {source}.\n\n{markdown(calls)}\n\n{markdown(rows)}"


def short_table(path: Path) -> str:
    """Medians alone."""
    rows = [["", "fused, us", "eager, us", "torch.compile, us", "eager / fused", "compiled / fused"]]
    for row in json.loads(path.read_text())["rows"]:
        ratios = [f"{row['ratio_to_fused'][name]['median']:.2f}" for name in ("eager", "compiled")]
        rows.append([*case_row(row)[:4], *ratios])
    return markdown(rows)


def case_row(row: dict[str, Any]) -> list[str]:
    times = [f"{row['seconds'][name]['median'] * 1e6:,.0f}" for name in ("fused", "eager", "compiled")]
    ratios = [spread(row["ratio_to_fused"][name]) for name in ("eager", "compiled")]
    return [row["case"], *times, *ratios, f"{row['bytes_per_second']['fused'] / 1e9:.1f}"]


def seconds(row: dict[str, Any]) -> float:
    """The median, in microseconds."""
    return float(row["seconds"]["median"]) * 1e6


def row_ratio(row: dict[str, Any]) -> str:
    return f"{spread(row['ratio'])} x {row['beside']}" if row.get("ratio") else ""


def spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def markdown(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


if __name__ == "__main__":
    main()
