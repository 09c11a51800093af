"""Measure fastadv against what people use now: correctness first, then all side by side; a table, JSON and CSV."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import selected
from benchmarks.suite import machine, regressions, results, terminal, unfinished
from benchmarks.suite.case import Entry
from benchmarks.suite.floor import Floor, overhead
from benchmarks.suite.runner import Conditions, Differs, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="every size, precision and mode of torch.compile; half an hour or more"
    )
    parser.add_argument(
        "--only", default="", help="run the cases whose name contains this, and write no file by default"
    )
    parser.add_argument(
        "--output", type=Path, help="the file of results (default: benchmarks/results/MACHINE-VERSION.json)"
    )
    parser.add_argument(
        "--against",
        type=Path,
        help="name what is slower than in this file, or in this machine's if 'committed'; write none by default",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with an interrupted run, after its last case; without, it begins anew",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the cases are computed")
    parser.add_argument("--resnet56", type=Path, help="weights of the public CIFAR-100 resnet56, to attack it too")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    device = torch.device(arguments.device)
    # What a run cannot do is said before it measures for minutes.
    if arguments.resnet56 and not arguments.resnet56.is_file():
        parser.error(f"--resnet56: there is no file {arguments.resnet56}")
    entries = selected(arguments.all, arguments.only, arguments.resnet56, on_gpu=device.type == "cuda")
    if not entries:
        parser.error(f"--only: no case has {arguments.only!r} in its name")
    if arguments.output and arguments.output.suffix != ".json":
        parser.error(f"--output: expected a name that ends in .json, got {arguments.output}")
    committed = results.FOLDER / f"{machine.slug(device)}.json"
    against = committed if str(arguments.against) == "committed" else arguments.against
    try:
        before = results.read(against) if against else None
    except (OSError, ValueError) as error:
        parser.error(f"--against: {error}")
    output = arguments.output or (None if arguments.only or against else committed)
    kept = unfinished.beside(output) if output else None
    if kept and not arguments.resume:
        kept.unlink(missing_ok=True)
    if arguments.resume and not (kept and kept.is_file()):
        parser.error(f"--resume: there is no {kept or 'file of a run that writes none'}")
    try:
        measured = measure(entries, device, everything=arguments.all, kept=kept)
    except unfinished.Other as error:
        parser.error(f"--resume: {error}")
    except KeyboardInterrupt:
        how = f"; --resume goes on after the last case in {kept}" if kept and kept.is_file() else ""
        raise SystemExit(f"\ninterrupted{how}") from None
    if output:
        results.write(output, measured)
        unfinished.beside(output).unlink(missing_ok=True)
        print(f"\nwrote {output} and {output.with_suffix('.csv').name}")
    if before and against:
        slower = regressions.slower(before, measured)
        print("\n" + regressions.report(slower, regressions.unlike(before, measured), against.name))
        if slower:
            raise SystemExit(1)
    if measured["not_timed"]:
        raise SystemExit(f"{len(measured['not_timed'])} cases failed and were not timed")


def measure(
    entries: list[Entry], device: torch.device, *, everything: bool, kept: Path | None = None
) -> dict[str, Any]:
    """Everything that a file of results holds, printed as it comes, and kept in ``kept`` after every case.

    What ``kept`` holds already is not measured again. Raises unfinished.Other where that is of another run.
    """
    measured: dict[str, Any] = {"machine": machine.describe(device), "everything": everything}
    for key, value in measured["machine"].items():
        print(f"{key}: {value}")
    conditions = Conditions.of(device, everything=everything)
    if kept and kept.is_file():
        measured = unfinished.load(kept, measured)
        floor = Floor.from_json(measured["floor"])
        print(f"{len(measured['rows'])} cases of {measured['machine']['date']} are not measured again")
    else:
        floor = Floor.measure(device)
        measured["machine"]["copy_bytes_per_second"] = floor.bandwidth
        measured |= {"floor": floor.as_json(), "overhead": overhead(device), "rows": [], "not_timed": []}
    print(f"\n{terminal.copies(measured['floor'])}\n\n{terminal.overhead(measured['overhead'])}\n\n{terminal.head()}")
    rows = {row["case"]: row for row in measured["rows"]}
    for entry in (entry for entry in entries if entry.name not in rows):
        try:
            rows[entry.name] = run(entry, conditions, floor)
            print(terminal.row(rows[entry.name]), flush=True)
        except Exception as error:
            # The other cases are worth their time all the same.
            kind = "" if isinstance(error, Differs) else f"{type(error).__name__}: "
            measured["not_timed"].append(f"{entry.name}: {kind}{error}")
            print(measured["not_timed"][-1])
        measured["rows"] = [rows[entry.name] for entry in entries if entry.name in rows]
        if kept:
            unfinished.save(kept, measured)
    return measured


if __name__ == "__main__":
    main()
