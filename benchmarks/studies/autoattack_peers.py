"""Is the verdict of autoattack that of pyautoattack, and how much sooner is it there?

python -m benchmarks.studies.autoattack_peers run --checkpoint FILE --data-dir DIR --norm linf --eps 8/255 --n 1000
python -m benchmarks.studies.autoattack_peers page

`run` attacks the first n CIFAR-100 test images with pyautoattack under two seeds and with fastadv in float32 and on the
bfloat16 copy, a shard of images at a time and each side in turn, and stores what each says of every image and each
attack's seconds in RESULTS/NAME. It goes on where it was stopped: a shard that is there is not run again. `page` writes
RESULTS/NAME.md for all that is stored: robust accuracy of each side, images on which they differ, and ratios of time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import re
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import autoattack
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.data.splits import to_pixels
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_split import prepare
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.machine import cpu_threads

RESULTS = Path("benchmarks/results/autoattack")
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
# The largest difference of robust accuracy, in points, with which the verdicts are called equal.
EQUAL = 0.3
SHARD = 50


def theirs(seed: int) -> Callable[..., dict[str, Any]]:
    """Return a side that runs pyautoattack with this seed."""

    def run(network: nn.Module, x: Tensor, y: Tensor, ids: Tensor, norm: str, eps: float) -> dict[str, Any]:
        from pyautoattack import AutoAttack

        log = _Times()
        logger = logging.getLogger("auto-attack")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(log)
        try:
            attack = AutoAttack(network, norm=norm.capitalize(), eps=eps, seed=seed)
            adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=250)
        finally:
            logger.removeHandler(log)
        return {"adversarial": adversarial, "seconds": log.seconds()}

    return run


def ours(attack_dtype: str) -> Callable[..., dict[str, Any]]:
    """Return a side that runs fastadv on a copy in this precision."""

    def run(network: nn.Module, x: Tensor, y: Tensor, ids: Tensor, norm: str, eps: float) -> dict[str, Any]:
        how: dict[str, Any] = {"attack_dtype": attack_dtype, "batch_size": 250, "sample_ids": ids}
        images, result = autoattack(network, x, y, eps=eps, norm=norm, **how)
        return {"adversarial": images, "seconds": {stage.attack: stage.seconds for stage in result.stages}}

    return run


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    "pyautoattack, seed 0": theirs(0),
    "pyautoattack, seed 1": theirs(1),
    "fastadv, float32": ours("float32"),
    "fastadv, bfloat16": ours("bfloat16"),
}


class _Times(logging.Handler):
    """The seconds of each attack, from what pyautoattack logs: the total after each."""

    def __init__(self) -> None:
        super().__init__()
        self._totals: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        found = re.match(r"robust accuracy after (\S+): .*total time ([\d.]+) s", record.getMessage())
        if found:
            self._totals[found[1].lower()] = float(found[2])

    def seconds(self) -> dict[str, float]:
        times, before = {}, 0.0
        for name, total in self._totals.items():
            times[name], before = total - before, total
        return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.autoattack_peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="attack, shard by shard")
    run.add_argument("--name", help="of the results (default: NETWORK-NORM-EPS)")
    run.add_argument("--model", default="resnet20", help="network (default: resnet20)")
    run.add_argument("--checkpoint", type=Path, required=True, help="its weights")
    run.add_argument("--data-dir", type=Path, required=True, help="folder of CIFAR-100")
    run.add_argument("--norm", choices=ORDER, default="linf", help="(default: linf)")
    run.add_argument("--eps", default="8/255", help="radius in pixels of [0, 1] (default: 8/255)")
    run.add_argument("--n", type=int, default=1000, help="test images (default: 1000)")
    run.add_argument("--sides", default=",".join(map(str, range(len(SIDES)))), help="numbers of the sides to run")
    run.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    commands.add_parser("page", help="write the pages of all that is stored")
    options = parser.parse_args()
    if options.command == "run":
        _run(options)
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        page = RESULTS / f"{folder.name}.md"
        page.write_text(_page(folder))
        print(page)


def _run(options: argparse.Namespace) -> None:
    eps = float(Fraction(options.eps))
    config = AttackConfig(
        model=options.model, data="cifar100", checkpoint=options.checkpoint, data_dir=options.data_dir, n=options.n
    )
    subject = prepare(config)
    name = options.name or f"{options.checkpoint.stem}-{options.norm}-{options.eps.replace('/', '_')}"
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "norm": options.norm,
        "eps": options.eps,
        "checkpoint": options.checkpoint.name,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": options.threads or torch.get_num_threads(),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    sides = [list(SIDES)[int(number)] for number in options.sides.split(",")]
    with cpu_threads(options.threads):
        for start in range(0, options.n, SHARD):
            ids = torch.arange(start, min(start + SHARD, options.n))
            x = to_pixels(subject.dataset.test.images[ids], channels_last=True)
            y = subject.dataset.test.labels[ids]
            for side in sides:
                file = folder / f"{_slug(side)}-{start:05d}.json"
                if not file.exists():
                    shard = _measured(SIDES[side], subject.network, x, y, ids, options.norm, eps)
                    write_atomically(file, lambda out, shard=shard: out.write(json.dumps(shard).encode()))  # type: ignore[misc]
                    print(f"{side}, images {start} to {start + len(ids) - 1}: {shard['total']:.1f} s", flush=True)


def _measured(
    side: Callable[..., dict[str, Any]], network: nn.Module, x: Tensor, y: Tensor, ids: Tensor, norm: str, eps: float
) -> dict[str, Any]:
    begun = time.perf_counter()
    found = side(network, x, y, ids, norm, eps)
    total = time.perf_counter() - begun
    adversarial = found["adversarial"]
    with torch.no_grad():
        clean, stands = network(x).argmax(1) == y, network(adversarial).argmax(1) == y
    distances = (adversarial.double() - x.double()).flatten(1).norm(ORDER[norm], dim=1)
    return {
        "clean": clean.tolist(),
        "stands": (clean & stands).tolist(),
        "largest_distance": float(distances.max()),
        "seconds": found["seconds"],
        "total": total,
    }


def _page(folder: Path) -> str:
    about = json.loads((folder / "about.json").read_text())
    shards = {side: _stored(folder, side) for side in SIDES}
    # Only shards that every side with any has are compared.
    present = [side for side in SIDES if shards[side]]
    common = sorted(set.intersection(*(set(shards[side]) for side in present))) if present else []
    rows = [["", "images", "clean, %", "robust, %", "largest distance", "seconds", *ATTACKS]]
    stands: dict[str, list[bool]] = {}
    for side in present:
        mine = [shards[side][start] for start in common]
        stands[side] = [each for shard in mine for each in shard["stands"]]
        count = len(stands[side])
        clean = sum(sum(shard["clean"]) for shard in mine)
        seconds = [sum(shard["seconds"].get(name, 0.0) for shard in mine) for name in ATTACKS]
        rows.append(
            [
                side,
                str(count),
                f"{100 * clean / max(count, 1):.2f}",
                f"{100 * sum(stands[side]) / max(count, 1):.2f}",
                f"{max((shard['largest_distance'] for shard in mine), default=0):.7g}",
                f"{sum(shard['total'] for shard in mine):.1f}",
                *(f"{each:.1f}" for each in seconds),
            ]
        )
    lines = [
        f"# AutoAttack beside pyautoattack: {about['checkpoint']}, {about['norm']}, eps {about['eps']}",
        render_table(rows),
        "\n".join(f"- {line}" for line in (*_ratios(rows), *_differences(stands, common, shards))),
        "Written by `python -m benchmarks.studies.autoattack_peers page` from"
        f" {about['threads']} threads of {about['machine']}, torch {about['torch']}.",
    ]
    return "\n\n".join(lines) + "\n"


def _ratios(rows: list[list[str]]) -> Iterable[str]:
    """How much sooner each of our sides is than the first of theirs, in all and for each attack."""
    by_side = {row[0]: [float(cell) for cell in row[5:]] for row in rows[1:]}
    peer = next((times for side, times in by_side.items() if side.startswith("pyautoattack")), None)
    for side, times in by_side.items():
        if peer is not None and not side.startswith("pyautoattack"):
            ratios = [
                f"{name} {theirs / mine:.2f}x"
                for name, theirs, mine in zip(("in all", *ATTACKS), peer, times, strict=True)
                if mine
            ]
            yield f"{side}: sooner by {', '.join(ratios)}"


def _differences(stands: dict[str, list[bool]], common: list[int], shards: dict[str, Any]) -> Iterable[str]:
    """Between which sides the robust accuracy differs, by how much, and on which images."""
    first = next(iter(SIDES))
    if first not in stands:
        return
    places = [start + k for start in common for k in range(len(shards[first][start]["stands"]))]
    for side, mine in stands.items():
        if side == first or not places:
            continue
        gap = 100 * (sum(mine) - sum(stands[first])) / len(places)
        only_first = [place for place, a, b in zip(places, stands[first], mine, strict=True) if b and not a]
        only_side = [place for place, a, b in zip(places, stands[first], mine, strict=True) if a and not b]
        verdict = "within" if abs(gap) <= EQUAL else "outside of"
        yield (
            f"{side} against {first}: {gap:+.2f} points, {verdict} {EQUAL}; broken by the latter alone: images"
            f" {only_first}, by the former alone: {only_side}"
        )


def _stored(folder: Path, side: str) -> dict[int, dict[str, Any]]:
    files = folder.glob(f"{_slug(side)}-*.json")
    return {int(file.stem.rpartition("-")[2]): json.loads(file.read_text()) for file in files}


def _slug(side: str) -> str:
    return side.replace(", ", "-").replace(" ", "")


if __name__ == "__main__":
    main()
