"""The command: ``python -m gpu_check --out DIR --deadline 540``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import gpu_check
from gpu_check import summary
from gpu_check.parts import all_parts
from gpu_check.running import CACHES, Part, Session, call, chosen, find_cuda, parser_of, show

# What is kept of the time for the summary and for processes that end slowly.
RESERVED_SECONDS = 10.0


def check(parts: Sequence[Part], out: Path, deadline: float) -> int:
    """Run the parts and print the summary, see :func:`call`."""
    session = Session(out, deadline - RESERVED_SECONDS, earlier=("tests.jsonl", "rows.jsonl"))
    return call("gpu-check", session, parts, summary.write)


def main() -> None:
    find_cuda()
    among = all_parts()
    arguments = parser_of("gpu_check", gpu_check.__doc__, among, CACHES / "results").parse_args()
    parts = chosen(arguments.parts, among)
    if arguments.dry_run:
        show(parts)
        return
    sys.exit(check(parts, arguments.out.resolve(), arguments.deadline))


if __name__ == "__main__":
    main()
