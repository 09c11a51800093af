"""A whole attack: torchattacks' PGD against pgd on frozen copies of the same network, side by side in one run.

python -m benchmarks.studies.attack_loops --checkpoint cifar100_resnet56.pth --data-dir DIR: a public CIFAR-100
resnet56, the first 64 test images, linf, 8/255, 10 steps of 2/255 without a random start. What each finds is compared
before anything is timed. The attack on each copy is timed under torch.compile as well, all steps in one graph. Prints a
table; --output NAME writes NAME.md and NAME.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from benchmarks.opponents.losses import cross_entropy_and_gradient
from benchmarks.opponents.steps import pgd_step_linf
from benchmarks.pages.tables import markdown, spread
from benchmarks.suite.machine import describe
from benchmarks.suite.measure import Effort, interleaved
from benchmarks.suite.runner import Differs
from benchmarks.suite.spread import Spread, ratio
from fastadv.attacks import freeze, pgd
from fastadv.attacks.model.timed import TimedNetwork
from fastadv.ops.attack_loss import attack_loss_value_and_grad
from fastadv.ops.step import pgd_stepper
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.weights import load_weights
from fastadv.train.runtime.errors import TrainError
from fastadv.train.runtime.machine import cpu_threads

EPS, STEP_SIZE = 8 / 255, 2 / 255
BASELINE, EXACT, HALF = "torchattacks", "pgd, float32 copy", "pgd, bfloat16 copy"
# Half precision need not find the same images, but images that gain about as much loss.
LEAST_GAIN = 0.95


@dataclass(frozen=True)
class Variant:
    """One way to attack ``network``: the attack of (network, x, y), and what a step of it does beside the network.

    compiled: into one graph, in which the network cannot be told from the rest.
    """

    network: nn.Module
    attack: Callable[[nn.Module, Tensor, Tensor], Tensor]
    update: Callable[[Tensor], object]
    compiled: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.attack_loops", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights of the network")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of CIFAR-100")
    parser.add_argument("--model", default="resnet56", help="(default: resnet56)")
    parser.add_argument("--batch", type=int, default=64, help="images (default: 64)")
    parser.add_argument("--steps", type=int, default=10, help="(default: 10)")
    parser.add_argument("--rounds", type=int, default=15, help="how often each attack is timed (default: 15)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time the attacks on copies under torch.compile as well, which takes minutes (default: yes)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--output", type=Path, help="write the results here, as .md and .json")
    options = parser.parse_args()
    try:
        data = datasets.load("cifar100", data_dir=options.data_dir)
        network = catalogue.build(options.model, num_classes=len(data.class_names), image_shape=data.image_shape)
        load_weights(network, options.checkpoint)
    except TrainError as error:
        parser.error(str(error))
    model = Classifier(network, data.mean, data.std).eval()
    x, y = to_pixels(data.test.images[: options.batch], channels_last=False), data.test.labels[: options.batch]
    with cpu_threads(options.threads):
        attacks = variants(model, x, y, options.steps)
        if options.compile:
            attacks |= {f"{name}, compiled": compiled(attacks[name]) for name in (EXACT, HALF)}
        results = {
            "machine": describe(torch.device("cpu")) | {"instructions": instructions()},
            "attack": f"PGD, linf, eps 8/255, {options.steps} steps of 2/255, no random start",
            "network": f"{options.model}, {options.batch} images of CIFAR-100",
            **run(attacks, x, y, options.steps, options.rounds),
        }
    print(page(results))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(page(results))


def variants(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, Variant]:
    """The attacks by name, torchattacks' own first."""
    import torchattacks  # which the rest of the benchmarks does without

    how: dict[str, Any] = {"eps": EPS, "step_size": STEP_SIZE}
    ours = partial(pgd, steps=steps, random_start=False, mode="sequential", **how)
    step = pgd_stepper(x, mode="sequential", **how)

    def theirs(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torchattacks.PGD(network, eps=EPS, alpha=STEP_SIZE, steps=steps, random_start=False)(x, y)

    def their_update(logits: Tensor) -> None:
        cross_entropy_and_gradient(logits, y)
        pgd_step_linf(x, x, x, EPS, STEP_SIZE)

    def our_update(logits: Tensor) -> None:
        attack_loss_value_and_grad(logits, y)
        step(x, x)

    copies = {EXACT: freeze(model), HALF: freeze(model, dtype=torch.bfloat16)}
    return {
        BASELINE: Variant(model, theirs, their_update),
        "pgd, the network itself": Variant(model, ours, our_update),
        **{name: Variant(copy, ours, our_update) for name, copy in copies.items()},
    }


def compiled(variant: Variant) -> Variant:
    """The whole attack, all of its steps, under torch.compile, with the network's weights as constants of its graph."""
    attack = torch.compile(variant.attack, fullgraph=True)

    def call(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        tracing = torch._dynamo.config.patch(trace_autograd_ops=True)
        # Under no_grad alone the compiler makes constants of weights, and fuses activations into convolutions.
        with tracing, torch._inductor.config.patch(freezing=True), torch.no_grad():
            return attack(network, x, y)

    return replace(variant, attack=call, compiled=True)


def run(attacks: Mapping[str, Variant], x: Tensor, y: Tensor, steps: int, rounds: int) -> dict[str, Any]:
    """Compare, then time. Raises :class:`benchmarks.suite.runner.Differs`."""
    model = attacks[BASELINE].network
    found = {name: each.attack(each.network, x, y) for name, each in attacks.items()}
    agreement = {
        "of_copy": flips(attacks[EXACT].network, model, (x, found[BASELINE]), y),
        "of_float32": flips(model, freeze(model, dtype=torch.float64), (x, found[BASELINE]), y),
    }
    if agreement["of_copy"]["share"] > agreement["of_float32"]["share"]:
        raise Differs(f"the copy's gradients differ more than float32 explains: {agreement}; nothing was timed")
    losses = {name: loss(model, images, y) for name, images in found.items()}
    clean = loss(model, x, y)
    least = clean + LEAST_GAIN * (losses[BASELINE] - clean)
    if weak := {name: value for name, value in losses.items() if value < least}:
        raise Differs(f"loss {clean:.3f} to {losses[BASELINE]:.3f} by {BASELINE}, but {weak}; nothing was timed")
    calls = {name: partial(each.attack, each.network, x, y) for name, each in attacks.items()}
    seconds = interleaved(calls, effort=Effort(rounds=rounds, fewest_rounds=rounds))
    rows = {}
    for name, each in attacks.items():
        logits = each.network(x).detach()
        rows[name] = {
            "seconds": asdict(Spread.of(seconds[name])),
            "speedup": asdict(ratio(seconds[BASELINE], seconds[name])),
            "network_share": None if each.compiled else network_share(each, x, y),
            "convolution_share": convolution_share(each, x, y),
            "update_seconds": steps * statistics.median(interleaved({name: partial(each.update, logits)})[name]),
            "loss": losses[name],
            "pixels_as_torchattacks": (found[name] == found[BASELINE]).double().mean().item(),
        }
    return {"agreement": agreement, "clean_loss": clean, "rows": rows}


def flips(network: nn.Module, other: nn.Module, points: tuple[Tensor, ...], y: Tensor) -> dict[str, float]:
    """Number of signs of the loss's gradient that differ at ``points``, and how large the largest of them is.

    As a share of all signs and of the largest gradient of its image.
    """
    differing, largest, count = 0, 0.0, 0
    for x in points:
        mine, theirs = gradient(network, x, y), gradient(other, x, y)
        differs = mine.sign() != theirs.sign()
        size = theirs.abs() / theirs.abs().amax((1, 2, 3), keepdim=True)
        differing, count = differing + int(differs.sum()), count + x.numel()
        largest = max(largest, float((size * differs).max()))
    return {"share": differing / count, "largest": largest}


def gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(cross_entropy(network(x), y, reduction="sum"), x)[0].double()


@torch.no_grad()
def loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return cross_entropy(model(x), y).item()


def network_share(variant: Variant, x: Tensor, y: Tensor) -> float:
    """The median share of the attack that the network takes, forward and backward."""
    timed = TimedNetwork(variant.network, x.device)
    shares = []
    for _ in range(3):
        _, total, inside = timed.time(lambda: variant.attack(timed, x, y))
        shares.append(inside / total)
    return statistics.median(shares)


def convolution_share(variant: Variant, x: Tensor, y: Tensor) -> float:
    """The median share of the attack inside PyTorch's convolution operators, forward and backward."""
    shares = []
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            variant.attack(variant.network, x, y)
            total = time.perf_counter() - began
        inside = sum(event.self_cpu_time_total for event in profiler.events() if "convolution" in event.name)
        shares.append(inside / 1e6 / total)
    return statistics.median(shares)


def instructions() -> str:
    """The vector instructions that decide how fast the networks run."""
    found = torch.cpu.get_capabilities()
    names = {"avx2": "AVX2", "avx512_f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
    return ", ".join(label for name, label in names.items() if found.get(name)) or "none of AVX2 and later"


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    machine, agreement = results["machine"], results["agreement"]
    table = [[
        "", "ms", "speedup", "convolutions, ms", "network, ms", "loss and step, ms", "rest, ms", "mean loss",
        "pixels equal, %",
    ]]  # fmt: skip
    for name, row in results["rows"].items():
        total = 1000 * row["seconds"]["median"]
        convolutions, parts = f"{total * row['convolution_share']:,.0f}", ["-"] * 3
        if row["network_share"] is not None:
            network, update = total * row["network_share"], 1000 * row["update_seconds"]
            parts = [f"{network:,.0f}", f"{update:.1f}", f"{max(total - network - update, 0):.1f}"]
        quality = [f"{row['loss']:.2f}", f"{100 * row['pixels_as_torchattacks']:.2f}"]
        table.append([name, f"{total:,.0f}", spread(row["speedup"]), convolutions, *parts, *quality])
    signs = " ".join(
        f"{text} in {1e6 * agreement[key]['share']:.0f} of a million signs, none of a gradient larger than "
        f"{agreement[key]['largest']:.1e} of its image's largest{end}"
        for key, text, end in (
            (
                "of_copy",
                "At the clean and the final images the float32 copy's gradients differ from the network's",
                ";",
            ),
            ("of_float32", "the network's own in float32 differ from float64's", "."),
        )
    )
    where = (machine["cpu"], machine["instructions"], f"{machine['threads']} threads", f"torch {machine['torch']}")
    return "\n\n".join(
        (
            f"# {results['network']}",
            f"{results['attack']}. {', '.join(where)}, fastadv {machine['fastadv']}.",
            markdown(table),
            "Medians; of the speedup, round by round, with its 95 % interval. The loss is the network's own, on the "
            f"clean images {results['clean_loss']:.2f}. The copies are made before the clock runs. {signs}",
            f"What is no convolution can be made faster by folding, layout and fusion: with all of it free, the "
            f"convolutions of the float32 copy alone would give {bound(results, EXACT):.2f}, those of the bfloat16 "
            f"copy {bound(results, HALF):.2f} times torchattacks' speed.\n",
        )
    )


def bound(results: Mapping[str, Any], name: str) -> float:
    """The speedup if a variant had nothing but its convolutions to compute."""
    row = results["rows"][name]
    return row["speedup"]["median"] / row["convolution_share"]


if __name__ == "__main__":
    main()
