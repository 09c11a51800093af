"""Measure fastadv against what people use now: correctness first, then all side by side; a table, JSON and CSV."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, regressions, results, terminal
from benchmarks.cases import selected
from benchmarks.floor import Floor, overhead
from benchmarks.runner import Conditions, Differs, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="every size, precision and mode of torch.compile; an hour or more"
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
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the cases are computed")
    parser.add_argument("--resnet56", type=Path, help="weights of the public CIFAR-100 resnet56, to attack it too")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    device = torch.device(arguments.device)
    committed = results.FOLDER / f"{machine.slug(device)}.json"
    against = committed if str(arguments.against) == "committed" else arguments.against
    if against and not against.is_file():
        parser.error(f"--against: there is no file {against}")
    measured = measure(device, everything=arguments.all, only=arguments.only, resnet56=arguments.resnet56)
    if output := arguments.output or (None if arguments.only or against else committed):
        results.write(output, measured)
        print(f"\nwrote {output} and {output.with_suffix('.csv').name}")
    if against:
        slower = regressions.slower(results.read(against), measured)
        print("\n" + regressions.report(slower, against.name))
        if slower:
            raise SystemExit(1)
    if measured["not_timed"]:
        raise SystemExit(f"{len(measured['not_timed'])} cases failed and were not timed")


def measure(device: torch.device, *, everything: bool, only: str, resnet56: Path | None) -> dict[str, Any]:
    """Everything that a file of results holds, printed as it comes."""
    about = machine.describe(device)
    for key, value in about.items():
        print(f"{key}: {value}")
    conditions = Conditions.of(device, everything=everything)
    floor, calls = Floor.measure(device), overhead(device)
    about["copy_bytes_per_second"] = floor.bandwidth
    print(f"\n{terminal.copies(floor.as_json())}\n\n{terminal.overhead(calls)}\n\n{terminal.head()}")
    rows, wrong = [], []
    for entry in selected(everything, only, resnet56, on_gpu=device.type == "cuda"):
        try:
            rows.append(run(entry, conditions, floor))
            print(terminal.row(rows[-1]), flush=True)
        except (Differs, RuntimeError, NotImplementedError) as error:
            # The other cases are worth their time all the same.
            wrong.append(f"{entry.name}: {error}")
            print(wrong[-1])
    return {"machine": about, "floor": floor.as_json(), "overhead": calls, "rows": rows, "not_timed": wrong}


if __name__ == "__main__":
    main()
