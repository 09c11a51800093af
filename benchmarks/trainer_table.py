"""Writes what the trainer found into README.md: ``python -m benchmarks.trainer_table``.

From each results.json that was committed with a run's report under results/.
"""

from __future__ import annotations

import re
from pathlib import Path

from fastadv.train.report import protocol, result_table
from fastadv.train.results import FILE, read_results

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
    """A run's table, what its numbers are, and where they come from."""
    run = read_results(folder)
    report = (folder / "report.md").relative_to(ROOT).as_posix()
    source = (
        f"Made by `{run.origin['Command']}` on {run.origin.get('GPU', run.origin['CPU'])}; "
        f"[its report]({report}) compares the methods seed by seed and has the curves."
    )
    return "\n\n".join([f"### {run.title}", result_table(run), " ".join([*protocol(run), source])])


if __name__ == "__main__":
    main()
