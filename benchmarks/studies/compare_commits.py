"""Measure this working tree's fused calls against another commit's, pair by pair: ``make bench-compare``.

The other commit is checked out in a worktree of its own, with a library built from its own sources. Two processes, one
a commit, take turns within each round, and only one of them runs at a time. Both measure the cases of this tree.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import selected
from benchmarks.suite.case import largest_difference
from benchmarks.suite.spread import Spread, ratio

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 31


class Failed(Exception):
    """A process cannot measure a case; the reason."""


class Process:
    """A child that measures the fastadv of ``tree`` with the cases of this tree."""

    def __init__(self, tree: Path, folder: Path) -> None:
        # The folder that the child starts in comes first on its path: this tree's cases, and nothing else of it. As a
        # regular package, which hides the other commit's benchmarks, where a namespace would take both.
        package = folder / "benchmarks"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        for room in (ROOT / "benchmarks").iterdir():
            (package / room.name).symlink_to(room)
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.studies.worker"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tree), os.environ.get("PYTHONPATH", "")))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = Path(self.ask(do="where")).resolve()
        if not found.is_relative_to(tree.resolve()):
            self.close()
            raise SystemExit(f"the fastadv that would be measured is {found}, expected one in {tree}")

    def ask(self, **order: object) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise SystemExit(f"the process that measures ended with status {self._child.wait()}")
        said = json.loads(line)
        if "error" in said:
            raise Failed(said["error"])
        return said["answer"]

    def close(self) -> None:
        self._child.communicate()


@contextlib.contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A worktree of ``revision`` with its own compiled library. Exits where there is no such revision."""
    tree = folder / "base"
    added = subprocess.run(
        ["git", "worktree", "add", "--detach", "--quiet", str(tree), revision], cwd=ROOT, check=False
    )
    if added.returncode:
        raise SystemExit(f"base: expected a commit of this repository, got {revision!r}")
    try:
        print(f"building {revision}", flush=True)
        subprocess.run(
            [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
            cwd=tree,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        yield tree
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def compare(
    case: str, base: Process, here: Process, folder: Path, rounds: int = ROUNDS
) -> tuple[Spread, Spread, Spread, float]:
    """Seconds a call there and here, the ratio there / here, and by how much the results differ."""
    files = {name: folder / f"{name}-result" for name in ("base", "here")}
    counts = [
        process.ask(do="prepare", case=case, result=str(file))
        for process, file in zip((base, here), files.values(), strict=True)
    ]
    difference = _difference(*(torch.load(files[name], weights_only=True) for name in ("here", "base")))
    # As many calls in both, so that both are as warm.
    calls = max(counts)
    before: list[float] = []
    now: list[float] = []
    for made in range(rounds):
        turns = [(base, before), (here, now)]
        for process, taken in turns if made % 2 else reversed(turns):
            taken.append(process.ask(do="time", calls=calls))
    return Spread.of(before), Spread.of(now), ratio(before, now), difference


def _difference(result: object, expected: object) -> float:
    """Infinite where an op has become another: results of another form."""
    try:
        return largest_difference(result, expected)
    except (AssertionError, ValueError):
        return float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.compare_commits", description=__doc__)
    parser.add_argument("base", help="the revision to compare with")
    parser.add_argument("--only", default="", help="the cases whose name contains this (default: those of make bench)")
    parser.add_argument("--all", action="store_true", help="every case")
    arguments = parser.parse_args()
    entries = selected(arguments.all, arguments.only)
    if not entries:
        parser.error(f"--only: no case has {arguments.only!r} in its name")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with checked_out(arguments.base, folder) as tree:
            base, here = Process(tree, folder / "at-base"), Process(ROOT, folder / "at-here")
            try:
                print(f"{'':60}{'base':>12}{'here':>12}   {'base / here':24}difference")
                for entry in entries:
                    try:
                        before, now, times, difference = compare(entry.name, base, here, folder)
                    except Failed as reason:
                        print(f"{entry.name:60}{'-':>12}   {reason}")
                        continue
                    told = f"{times.median:.2f} ({times.low:.2f} - {times.high:.2f})"
                    mark = "  slower" if times.high < 1 else "  faster" if times.low > 1 else ""
                    print(
                        f"{entry.name:60}{before.median * 1e6:10,.1f}us{now.median * 1e6:10,.1f}us   {told:24}"
                        f"{difference:.0e}{mark}",
                        flush=True,
                    )
            finally:
                base.close()
                here.close()


if __name__ == "__main__":
    main()
