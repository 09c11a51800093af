"""What would AutoAttack of CIFAR-10 take a WRN-28-10 on one H100? An estimate from counted passes; none runs on a GPU.

python -m benchmarks.studies.adversarial_training --model digits_small --out DIR
python -m benchmarks.studies.autoattack_cost --digits DIR/weights.pt --output NAME

How many passes an image costs depends on what breaks it, hardly on the network. So a small network that was trained
adversarially is attacked on digits of which as many are misclassified, broken and left standing as the table of
RobustBench says of a WRN-28-10, by fastadv and by pyautoattack, and the images in all forward and backward passes are
counted. Times the operations that such a pass of the real WRN-28-10 takes, over the rate that the GPU is assumed to
hold, that is hours. Writes NAME.md and NAME.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.suite.machine import installed
from fastadv.attacks.methods.autoattack import ROBUST, AutoAttack
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.data.splits import to_pixels
from fastadv.train.networks.wide_resnet import WideResNet
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_split import prepare
from fastadv.train.runtime.machine import cpu_threads

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
REST = "clean and checks"
# RobustBench's entry Carmon2019Unlabeled, a WRN-28-10 in linf, 8/255: shares of the 10,000 test images.
PUBLISHED, CLEAN_SHARE, ROBUST_SHARE = "Carmon et al. 2019", 0.8969, 0.5953
# The small network that is attacked in its place.
MODEL = "digits_small"
TEST_IMAGES, SHAPE, CLASSES = 10_000, (3, 32, 32), 10
# A pass's kinds: to the logits; from them to the image; from them to the image and the weights.
FORWARD, BACKWARD, WEIGHTS = "forward", "backward to the image", "backward to image and weights"


class Rate(NamedTuple):
    """Of an H100 SXM: dense peak in TFLOP/s by NVIDIA's data sheet, and the shares of it assumed to be held."""

    peak: float
    low: float
    high: float


# Tensor cores starve at convolutions of 160 to 640 channels between BatchNorms and ReLUs that wait for memory; plain
# float32 is slow enough not to.
RATES = {
    "float32": Rate(66.9, 0.5, 0.9),
    "TF32": Rate(494.7, 0.2, 0.5),
    "bfloat16": Rate(989.4, 0.2, 0.5),
}
# Precisions of the attacked network that each side offers; TF32 is what PyTorch's convolutions take unless told not to.
OFFERED = {"pyautoattack": ("float32", "TF32"), "fastadv": ("float32", "TF32", "bfloat16")}

# Of each attack: images in passes of each kind.
Passes = dict[str, Counter[str]]


class Counted(nn.Module):
    """``network``, the images in its passes counted under the current ``label``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.label = network, REST
        self.passes: Passes = defaultdict(Counter, {name: Counter() for name in (REST, *ATTACKS)})
        self._images = 0
        weight = next(network.parameters())
        weight.requires_grad_()
        weight.register_hook(self._reached_weights)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        self.passes[self.label][FORWARD] += len(x)
        if logits.requires_grad:
            logits.register_hook(self._went_back)
        return logits

    def _went_back(self, grad: Tensor) -> None:
        self._images = len(grad)
        self.passes[self.label][BACKWARD] += self._images

    def _reached_weights(self, grad: Tensor) -> None:
        """The pass that was taken for one to the image alone was none."""
        self.passes[self.label].subtract({BACKWARD: self._images})
        self.passes[self.label][WEIGHTS] += self._images


@dataclass(frozen=True)
class Found:
    """What a side needed: images in passes by attack and kind, and the shares of images right and standing."""

    passes: Passes
    clean: float
    robust: float


def ours(network: nn.Module, x: Tensor, y: Tensor, *, eps: float, batch_size: int) -> Found:
    """Run :func:`fastadv.attacks.autoattack`."""
    counted = Counted(network)
    evaluation = AutoAttack(counted, x, y, eps=eps, batch_size=batch_size)
    # Which attack a pass was of is known after it.
    counted.label = "the last pass"

    def book(evaluation: AutoAttack) -> None:
        counted.passes[evaluation.attacks[evaluation.stage]].update(counted.passes.pop(counted.label))

    evaluation.run(book)
    result = evaluation.result()
    return Found(counted.passes, result.clean_accuracy, result.robust_accuracy)


def theirs(network: nn.Module, x: Tensor, y: Tensor, *, eps: float, batch_size: int) -> Found:
    """Run pyautoattack."""
    from pyautoattack import AutoAttack as Published

    counted = Counted(network)
    published = Published(counted, norm="Linf", eps=eps, seed=0)
    attacks = (published.apgd, published.apgd_targeted, published.fab, published.square)
    for name, attack in zip(ATTACKS, attacks, strict=True):
        attack.perturb = _labelled(attack.perturb, counted, name)
    images, _ = published.run_standard_evaluation(x, y, batch_size=batch_size)
    counts = {name: Counter(passes) for name, passes in counted.passes.items()}
    with torch.no_grad():
        clean, robust = ((network(each).argmax(1) == y).double().mean().item() for each in (x, images))
    return Found(counts, clean, robust)


def _labelled(perturb: Callable[..., Tensor], counted: Counted, name: str) -> Callable[..., Tensor]:
    def run(*arguments: Any) -> Tensor:
        counted.label = name
        try:
            return perturb(*arguments)
        finally:
            counted.label = REST

    return run


def mixture(
    network: nn.Module, x: Tensor, y: Tensor, *, eps: float, count: int, clean: float, robust: float
) -> tuple[Tensor, Tensor]:
    """Return ``count`` images and classes of which the shares ``clean`` are classified right and ``robust`` stand.

    Those that fall are the first of ``x`` [N, ...] that do, whatever breaks them. Those misclassified are images that
    fall under the name of another class: they cost a clean pass, whatever they show. Raises ValueError where ``x`` has
    too few of a kind.
    """
    evaluation = AutoAttack(network, x, y, eps=eps)
    evaluation.run()
    stand, right = round(robust * count), round(clean * count)
    kinds = [which.nonzero().flatten() for which in (evaluation.broken_by == ROBUST, evaluation.broken_by >= 0)]
    if len(kinds[0]) < stand or len(kinds[1]) < count - stand:
        raise ValueError(
            f"x must hold {stand} images that stand and {count - stand} that fall, has {len(kinds[0])} and"
            f" {len(kinds[1])}: choose another eps or count"
        )
    at = torch.cat((kinds[0][:stand], kinds[1][: count - stand]))
    classes = y[at].clone()
    with torch.no_grad():
        classes[right:] = (classes[right:] + 1) % network(x[:1]).shape[1]
    return x[at], classes


def operations(network: nn.Module, shape: Sequence[int]) -> dict[str, int]:
    """Floating-point operations, two a multiplication and addition, of each kind of pass of one image [*shape]."""
    network = network.to("meta").eval()

    def total(backward: bool, weights: bool) -> int:
        network.requires_grad_(weights)
        x = torch.zeros(1, *shape, device="meta", requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            logits = network(x)
            if backward:
                logits.sum().backward()
        return counter.get_total_flops()

    forward = total(False, False)
    return {FORWARD: forward, BACKWARD: total(True, False) - forward, WEIGHTS: total(True, True) - forward}


def summary(found: dict[str, Found], each: dict[str, int], images: int) -> dict[str, Any]:
    """Of each side: passes an image, operations of all test images, and hours in each precision it offers."""
    sides = {}
    for side, result in found.items():
        per_image = {
            name: {kind: passes[kind] / images for kind in (FORWARD, BACKWARD, WEIGHTS)}
            for name, passes in result.passes.items()
        }
        work = {name: sum(each[kind] * passes[kind] for kind in passes) for name, passes in per_image.items()}
        flops = TEST_IMAGES * sum(work.values())
        hours = {
            precision: [flops / (share * 1e12 * rate.peak) / 3600 for share in (rate.high, rate.low)]
            for precision, rate in ((name, RATES[name]) for name in OFFERED[side])
        }
        sides[side] = {
            "passes_per_image": per_image,
            "flops": {name: TEST_IMAGES * each for name, each in work.items()},
            "hours": hours,
            "clean": result.clean,
            "robust": result.robust,
        }
    return {"flops_per_pass": each, "images": images, "sides": sides}


def page(content: dict[str, Any]) -> str:
    """The page of what :func:`summary` gave and how it was made."""
    each, sides = content["flops_per_pass"], content["sides"]
    gigas = ", ".join(f"{flops / 1e9:.2f} GFLOP {kind}" for kind, flops in each.items())
    first = next(iter(sides.values()))
    right, standing = (f"{100 * first[key]:.1f} %" for key in ("clean", "robust"))
    held = "; ".join(
        f"{name} {100 * rate.low:.0f} to {100 * rate.high:.0f} % of {rate.peak} TFLOP/s" for name, rate in RATES.items()
    )
    sections = (
        "# What AutoAttack of CIFAR-10 would take a WRN-28-10 on one H100",
        "**An estimate from counted passes. Nothing was measured on a GPU.**",
        render_table(list(_hours(sides))),
        f"All {TEST_IMAGES:,} test images, linf, version standard. {right} are classified right and {standing} stand,"
        f" as RobustBench has it of the WRN-28-10 of {PUBLISHED}: {100 * CLEAN_SHARE:.2f} and {100 * ROBUST_SHARE:.2f}"
        f" %. Assumed of an H100 SXM, whose dense peaks are those of NVIDIA's data sheet: it holds {held}. TF32 is what"
        " PyTorch's convolutions take unless told not to. The bfloat16 copy is attacked, the network itself judges."
        " Steps, projections and windows between the passes are left out.",
        "Images in passes for each test image, and the work of them all:",
        render_table(list(_work(sides))),
        f"A pass of an image through the WRN-28-10 takes {gigas}, counted by torch.utils.flop_counter on"
        " fastadv/train/networks/wide_resnet.py. The published FAB goes back to the weights of every network whose"
        " weights require a gradient, as they do unless told not to. Passes were counted while both packages attacked"
        f" a {MODEL} on {content['images']} digits at eps {content['eps']:g}, {content['batch_size']} images a"
        f" batch, as many of them wrong, broken and standing as above; pyautoattack {content['pyautoattack']}, torch"
        f" {content['torch']}.",
        f"Made by `python -m benchmarks.studies.adversarial_training --model {MODEL} --out DIR`, then"
        f" `{content['command']}`.",
    )
    return "\n\n".join(sections) + "\n"


def _hours(sides: dict[str, Any]) -> Iterator[list[str]]:
    yield ["", "precision of the attacked network", "hours"]
    for side, found in sides.items():
        for precision, (low, high) in found["hours"].items():
            yield [side, precision, f"{low:.1f} to {high:.1f}"]


def _work(sides: dict[str, Any]) -> Iterator[list[str]]:
    yield ["", "attack", FORWARD, BACKWARD, WEIGHTS, "EFLOP", "share, %"]
    for side, found in sides.items():
        total = sum(found["flops"].values())
        rows = [*found["passes_per_image"].items()]
        rows.append(("all", {kind: sum(passes[kind] for _, passes in rows) for kind in (FORWARD, BACKWARD, WEIGHTS)}))
        for name, passes in rows:
            flops = total if name == "all" else found["flops"][name]
            counts = (f"{passes[kind]:,.1f}" for kind in (FORWARD, BACKWARD, WEIGHTS))
            yield [side, name, *counts, f"{flops / 1e18:.3f}", f"{100 * flops / total:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True, help=f"weights of a {MODEL}")
    parser.add_argument("--eps", type=float, default=0.1, help="linf radius at which enough stand (default: 0.1)")
    parser.add_argument(
        "--n", type=int, default=40, help="images of the mixture, found among twice as many (default: 40)"
    )
    parser.add_argument("--batch-size", type=int, default=30, help="images a pass (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--output", type=Path, help="write NAME.md and NAME.json")
    options = parser.parse_args(arguments)
    config = AttackConfig(model=MODEL, data="digits", checkpoint=options.digits, eps=options.eps)
    with cpu_threads(options.threads):
        subject = prepare(config)
        test = subject.dataset.test
        mixed = {"eps": options.eps, "count": options.n, "clean": CLEAN_SHARE, "robust": ROBUST_SHARE}
        x = to_pixels(test.images[: 2 * options.n], channels_last=False)
        x, y = mixture(subject.network, x, test.labels[: 2 * options.n], **mixed)
        how = {"eps": options.eps, "batch_size": options.batch_size}
        found = {"pyautoattack": theirs(subject.network, x, y, **how), "fastadv": ours(subject.network, x, y, **how)}
    content = summary(found, operations(WideResNet(28, 10, num_classes=CLASSES), SHAPE), options.n)
    content |= how | {"torch": torch.__version__, "pyautoattack": installed("pyautoattack")}
    counts = f"--eps {options.eps:g} --n {options.n} --batch-size {options.batch_size}"
    content["command"] = f"python -m benchmarks.studies.autoattack_cost --digits DIR/{options.digits.name} {counts}"
    text = page(content)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".md").write_text(text)
        options.output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
