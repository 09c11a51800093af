"""The command: ``python -m gpu_check --out DIR --deadline 540``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import gpu_check
from gpu_check import summary
from gpu_check.parts import all_parts
from gpu_check.running import CACHES, Part, Session, Stopped, stoppable

# What is kept of the time for the summary and for processes that end slowly.
RESERVED_SECONDS = 10.0


def chosen(names: str, among: Sequence[Part]) -> list[Part]:
    """Return the parts that ``names``, separated by commas, choose, and those that are required; all for none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [part.name for part in among]
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")
    return [part for part in among if not wanted or part.required or part.name in wanted]


def check(parts: Sequence[Part], out: Path, deadline: float) -> int:
    """Run the parts and print the summary last; 0 where all passed, 1 where not, 143 where the call was ended."""
    session = Session(out, deadline - RESERVED_SECONDS)
    try:
        with stoppable():
            status = 0 if session.run(parts) else 1
    except Stopped:
        session.say("gpu-check", "told to end")
        status = 143
    print(f"\n{summary.write(out)}\nall of it in {out}", flush=True)
    return status


def main() -> None:
    among = all_parts()
    parser = argparse.ArgumentParser(
        prog="python -m gpu_check", description=gpu_check.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(part.name for part in among)
    parser.add_argument("--parts", default="", help=f"some of {names}")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT") or CACHES / "results"),
        help="the folder of results (default: $OUT, else build/gpu-check/results)",
    )
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds after which all is over (default: 540)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    arguments = parser.parse_args()
    parts = chosen(arguments.parts, among)
    if arguments.dry_run:
        for part in parts:
            for step in part.steps:
                variables = [f"{name}={value}" for name, value in step.environment.items()]
                print(f"{part.name} ({part.share:.0f} s): {' '.join((*variables, shlex.join(step.command)))}")
        return
    sys.exit(check(parts, arguments.out.resolve(), arguments.deadline))


if __name__ == "__main__":
    main()
