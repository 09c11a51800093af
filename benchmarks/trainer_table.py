"""Writes what the trainer found into README.md: ``python -m benchmarks.trainer_table``.

From each results.json that was committed with a run's report under results/.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from fastadv.train.report import comparison_table, protocol, result_table
from fastadv.train.results import FILE, read_results
from fastadv.train.tables import PAIRING

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "README.md"
BEGIN, END = "<!-- what the trainer found -->\n", "<!-- end of what the trainer found -->\n"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), tables()))


def filled(text: str, tables: str) -> str:
    """``text`` with what stands between the two markers replaced by ``tables``."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{tables}\n\n{END}", text, count=1, flags=re.DOTALL)


def tables() -> str:
    """The section of every committed run, in the order of their folders."""
    return "\n\n".join(section(path.parent) for path in sorted((ROOT / "benchmarks" / "results").glob(f"*/{FILE}")))


def section(folder: Path) -> str:
    """A run's tables, what their numbers are, and where they come from."""
    run = read_results(folder)
    report = (folder / "report.md").relative_to(ROOT).as_posix()
    machine = run.origin.get("GPU", run.origin["CPU"])
    source = f"Made by `{run.origin['Command']}` on {machine}; [its report]({report}) has each seed and the curves."
    parts = [f"### {run.title}", result_table(run), wrapped(" ".join([*protocol(run), source]))]
    differences = comparison_table(run)
    if differences is not None:
        parts += [differences, wrapped(PAIRING)]
    return "\n\n".join(parts)


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
