"""Is APGD as strong as PGD of the same number of steps? Robust accuracy of each, and of APGD with the DLR loss.

python -m benchmarks.studies.apgd_against_pgd --checkpoints DIR --data-dir DIR --digits DIR/weights.pt: CIFAR-100
resnets (DIR/cifar100_resnet20.pth and so on) at an eps where PGD leaves between 20 and 50 %, and the digits network of
benchmarks/studies/adversarial_training.py. Each attack sees a copy in bfloat16; the network as loaded, in float32,
judges. Ends with status 1 where APGD leaves more than the upper end of the interval around PGD's accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_report import summarise
from fastadv.train.robustness.attack_split import attack_missing, prepare
from fastadv.train.runtime.machine import cpu_threads

PIXEL = 1 / 255
RADII = {"resnet20": 0.3 * PIXEL, "resnet32": 0.35 * PIXEL, "resnet44": 0.35 * PIXEL, "resnet56": 0.4 * PIXEL}
DIGITS_RADIUS = 0.17
ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {"attack": "pgd"},
    "apgd": {"attack": "apgd"},
    "apgd, dlr": {"attack": "apgd", "loss": "dlr"},
}


@dataclass(frozen=True)
class Row:
    """A network, and the shares of accuracy of :func:`summarise`, clean and under each attack."""

    network: str
    eps: str
    images: int
    clean: dict[str, Any]
    robust: dict[str, dict[str, Any]]

    @property
    def weaker(self) -> bool:
        """True where APGD leaves more than PGD by more than the interval."""
        return self.robust["apgd"]["accuracy"] > self.robust["pgd"]["interval"][1]

    @property
    def telling(self) -> bool:
        """True where both lie where there is something to compare."""
        return all(0.2 <= self.robust[name]["accuracy"] <= 0.5 for name in ("pgd", "apgd"))

    def cells(self) -> list[str]:
        shares = [_percent(self.clean), *(_percent(share, interval=True) for share in self.robust.values())]
        return [self.network, str(self.images), self.eps, *shares]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.apgd_against_pgd", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, help="folder of the CIFAR-100 resnets; none leaves them out")
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-100")
    parser.add_argument("--digits", type=Path, help="weights of the digits network; none leaves it out")
    parser.add_argument("--n", type=int, default=1000, help="test images of each, of the digits all (default: 1000)")
    parser.add_argument("--steps", type=int, default=10, help="of each attack (default: 10)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    options = parser.parse_args()
    with cpu_threads(options.threads):
        rows = [measured(name, eps, subject, options.steps) for name, eps, subject in subjects(options)]
    print(render_table([["network", "images", "eps", "clean, %", *ATTACKS], *(row.cells() for row in rows)]))
    for row in rows:
        if not row.telling:
            print(f"{row.network}: pgd or apgd outside of 20 to 50 %, which tells little")
    if weaker := [row.network for row in rows if row.weaker]:
        raise SystemExit(f"apgd leaves more than pgd by more than the interval: {', '.join(weaker)}")


def subjects(options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, eps as people write it, and the fields of the configuration that say what is attacked."""
    if options.checkpoints is not None:
        for model, eps in RADII.items():
            files = {"checkpoint": options.checkpoints / f"cifar100_{model}.pth", "data_dir": options.data_dir}
            yield (
                f"{model}, CIFAR-100",
                f"{eps / PIXEL:.2f}/255",
                {"model": model, "data": "cifar100", "eps": eps, "n": options.n, **files},
            )
    if options.digits is not None:
        fields = {"model": "digits_cnn", "data": "digits", "eps": DIGITS_RADIUS, "checkpoint": options.digits}
        yield "digits_cnn trained adversarially", str(DIGITS_RADIUS), fields


def measured(name: str, eps: str, subject: dict[str, Any], steps: int) -> Row:
    """Run every attack of the comparison."""
    found = {label: _accuracy({**subject, **attack, "steps": steps}) for label, attack in ATTACKS.items()}
    first = found["pgd"]
    robust = {label: result["accuracy"]["float32"]["robust"] for label, result in found.items()}
    return Row(name, eps, first["images"], first["accuracy"]["float32"]["clean"], robust)


def _accuracy(fields: dict[str, Any]) -> dict[str, Any]:
    config = AttackConfig(dtype="bfloat16", **fields)
    prepared = prepare(config)
    with tempfile.TemporaryDirectory() as folder:
        return summarise(config, prepared, attack_missing(config, prepared, Path(folder)))


def _percent(share: dict[str, Any], *, interval: bool = False) -> str:
    low, high = share["interval"]
    around = f" ({100 * low:.1f} to {100 * high:.1f})" if interval else ""
    return f"{100 * share['accuracy']:.2f}{around}"


if __name__ == "__main__":
    main()
