"""Is the verdict of autoattack that of pyautoattack, and how much sooner is it there?

python -m benchmarks.studies.autoattack_peers run --checkpoint FILE [FILE ...] --data-dir DIR
python -m benchmarks.studies.autoattack_peers page

`run` attacks the first n CIFAR-100 test images with pyautoattack under two seeds, with fastadv in float32 and on the
bfloat16 copy, and with torchattacks' AutoAttack, in every norm: SHARD images at a time, the sides in turn, each attack
on what the last one left. What an attack leaves standing, its seconds and its memory are a file in RESULTS/NAME,
written when it is over: a run that was stopped goes on there, and so does one with a larger n. With --untimed, the
other packages attack the network with its BatchNorms folded. `page` writes RESULTS/NAME.md for all that is stored:
robust accuracy of each side, images on which they differ, and ratios of time.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.opponents import peers
from benchmarks.suite.machine import cpu_name, installed
from fastadv.attacks import autoattack, freeze
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.data.splits import to_pixels
from fastadv.train.report.tables import render_table
from fastadv.train.robustness.attack_split import PreparedAttack, prepare
from fastadv.train.runtime.digests import sha256_of_file
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.machine import cpu_threads

RESULTS = Path("benchmarks/results/autoattack")
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
# Radii in pixels of [0, 1]; of the network that is not robust, ones at which 20 to 50 % of the images stand.
EPS = {
    "cifar100_resnet20_pgdat": {"linf": "8/255", "l2": "0.5", "l1": "6"},
    "cifar100_resnet20": {"linf": "0.35/255", "l2": "0.05", "l1": "0.5"},
}
# The largest difference of robust accuracy, in points, from what pyautoattack's seeds give, with which verdicts are
# called equal.
EQUAL = 0.3
SHARD = 200
BATCH = 250

# Of each side, in the order of the images: what is stored of each attack.
Shards = dict[str, list[dict[str, Any]]]


class Clock:
    """The seconds in a network and in all copies of it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def begin(self, *_: object) -> None:
        self._begun = time.perf_counter()

    def end(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begun

    def __deepcopy__(self, memo: dict[int, object]) -> Clock:
        return self


def clocked(network: nn.Module, clock: Clock) -> nn.Module:
    """Return a copy of ``network``, its forward passes and its backward passes to the images on ``clock``.

    By hooks, which copies of it have too: what it computes is as plain to see as in the network.
    """

    def end(_: nn.Module, images: tuple[Tensor], logits: Tensor) -> None:
        clock.end()
        (x,) = images
        if x.requires_grad and logits.requires_grad:
            logits.register_hook(clock.begin)
            x.register_hook(clock.end)

    network = copy.deepcopy(network)
    network.register_forward_pre_hook(clock.begin)
    network.register_forward_hook(end)
    return network


class Folded(nn.Module):
    """The same function as ``network``, computed sooner, its gradients contiguous as pyautoattack wants them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = freeze(network)

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(Tensor.contiguous)
        return self.network(x.contiguous(memory_format=torch.channels_last))


# From a network, images [n, ...], their classes and identities [n], an attack, norm and eps, and the clock that the
# network is on where times are kept, to the images after it.
Side = Callable[[nn.Module, Tensor, Tensor, Tensor, str, str, float, Clock | None], Tensor]


def as_given(network: nn.Module, clock: Clock | None) -> nn.Module:
    """The network as other packages attack it: on the clock, or folded where no times are kept."""
    if clock is None:
        return Folded(network)
    # They view gradients as rows, which those of images in channels_last are not. Their examples hand them networks as
    # they are loaded, with weights that require a gradient, to which the backward passes of FAB go as well.
    return clocked(network, clock).to(memory_format=torch.contiguous_format).requires_grad_()


def theirs(seed: int) -> Side:
    """Return a side that runs pyautoattack with this seed."""

    def run(
        network: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: str, norm: str, eps: float, clock: Clock | None
    ) -> Tensor:
        from pyautoattack import AutoAttack as Published

        published = Published(as_given(network, clock), norm=norm.capitalize(), eps=eps, seed=seed)
        published.attacks_to_run = [attack]
        return published.run_standard_evaluation(x.contiguous(), y, batch_size=BATCH)[0]

    return run


def torchattacks(
    network: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: str, norm: str, eps: float, clock: Clock | None
) -> Tensor:
    """A side: what torchattacks' AutoAttack runs, which gives the attacks 10 steps and every class as a target."""
    with torch.no_grad():
        classes = network(x[:1]).shape[1]
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "apgd-ce": ("APGD", {"loss": "ce"}),
        "apgd-t": ("APGDT", {"n_classes": classes}),
        "fab-t": ("FAB", {"multi_targeted": True, "n_classes": classes}),
        "square": ("Square", {"n_queries": 5000}),
    }
    kind, options = kinds[attack]
    build = peers.torchattacks(kind, norm=norm.capitalize(), eps=eps, seed=0, n_restarts=1, **options)
    found = build(as_given(network, clock), x.contiguous(), y)()
    assert isinstance(found, Tensor)
    return found.detach()


def ours(attack_dtype: str) -> Side:
    """Return a side that runs fastadv on a copy in this precision."""

    def run(
        network: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: str, norm: str, eps: float, clock: Clock | None
    ) -> Tensor:
        how: dict[str, Any] = {"version": [attack], "attack_dtype": attack_dtype, "batch_size": BATCH}
        network = network if clock is None else clocked(network, clock)
        return autoattack(network, x, y, eps=eps, norm=norm, sample_ids=ids, **how)[0]

    return run


SIDES: dict[str, Side] = {
    "pyautoattack, seed 0": theirs(0),
    "pyautoattack, seed 1": theirs(1),
    "fastadv, float32": ours("float32"),
    "fastadv, bfloat16": ours("bfloat16"),
    "torchattacks": torchattacks,
}
# Of a side, norms that it has not.
LACKS = {"torchattacks": ("l1",)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.autoattack_peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="attack, shard by shard")
    run.add_argument("--model", default="resnet20", help="network (default: resnet20)")
    run.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="its weights, one file or several")
    run.add_argument("--data-dir", type=Path, required=True, help="folder of CIFAR-100")
    run.add_argument("--norm", choices=ORDER, nargs="+", default=list(ORDER), help="(default: all)")
    run.add_argument("--eps", help="radius in pixels of [0, 1] (default: the one of checkpoint and norm, see EPS)")
    run.add_argument("--n", type=int, default=1000, help="test images (default: 1000)")
    run.add_argument("--sides", type=int, nargs="+", default=[*range(len(SIDES))], help="numbers of those to run")
    run.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    run.add_argument("--untimed", action="store_true", help="verdicts alone, on machines that do other work too")
    for command in (run, commands.add_parser("page", help="write the pages of all that is stored")):
        command.add_argument(
            "--results", type=Path, default=RESULTS, help=f"folder of the results (default: {RESULTS})"
        )
    options = parser.parse_args()
    if options.command == "run":
        for checkpoint in options.checkpoint:
            for norm in options.norm:
                _run(options, checkpoint, norm)
    for folder in sorted(path for path in options.results.iterdir() if path.is_dir()):
        written = folder.with_name(f"{folder.name}.md")
        written.write_text(page(folder))
        print(written)


def _run(options: argparse.Namespace, checkpoint: Path, norm: str) -> None:
    eps = options.eps or EPS.get(checkpoint.stem, {}).get(norm)
    if eps is None:
        raise SystemExit(f"--eps is needed for {checkpoint.name} in {norm}")
    given = {"model": options.model, "data": "cifar100", "checkpoint": str(checkpoint), "eps": eps}
    given |= {"data_dir": str(options.data_dir), "n": str(options.n), "norm": norm}
    config = AttackConfig(**AttackConfig.read_flags(given))
    folder = options.results / f"{checkpoint.stem}-{norm}-{eps.replace('/', '_')}"
    folder.mkdir(parents=True, exist_ok=True)
    with cpu_threads(options.threads):
        about = {
            "norm": norm,
            "eps": eps,
            "checkpoint": checkpoint.name,
            "sha256": sha256_of_file(checkpoint),
            "shard": SHARD,
            "torch": torch.__version__,
            "pyautoattack": installed("pyautoattack"),
        }
        if list(SIDES).index("torchattacks") in options.sides:
            about["torchattacks"] = installed("torchattacks")
        if not options.untimed:
            about |= {
                "machine": cpu_name(),
                "instructions": torch.backends.cpu.get_cpu_capability(),
                "threads": torch.get_num_threads(),
            }
        _check_same(folder / "about.json", about)
        prepared = prepare(config)
        for start in range(0, options.n, SHARD):
            for number in options.sides:
                _run_shard(list(SIDES)[number], folder, prepared, start, norm, config.eps, timed=not options.untimed)


def _check_same(file: Path, about: dict[str, Any]) -> None:
    """Store what the results in a folder share, or exit where those that are there were made otherwise."""
    if not file.exists():
        write_atomically(file, lambda out: out.write(json.dumps(about, indent=1).encode()))
    stored = json.loads(file.read_text())
    changes = (
        f"{name} {stored.get(name)} there, {value} here" for name, value in about.items() if stored.get(name) != value
    )
    if apart := list(changes):
        raise SystemExit(f"{file.parent} holds results of another run: {'; '.join(apart)}")


def _run_shard(
    side: str, folder: Path, prepared: PreparedAttack, start: int, norm: str, eps: float, *, timed: bool = True
) -> None:
    """Let ``side`` attack the images from ``start`` on, one attack after the other; what is stored is not run again.

    Nothing is run of a side that lacks the norm.
    """
    if norm in LACKS.get(side, ()):
        return
    ids = torch.arange(start, min(start + SHARD, prepared.images))
    x = to_pixels(prepared.dataset.test.images[ids], channels_last=True)
    y = prepared.dataset.test.labels[ids]
    with torch.no_grad():
        stands = clean = prepared.network(x).argmax(1) == y
    for attack in ATTACKS:
        file = folder / f"{_slug(side)}-{start:05d}-{attack}.json"
        stored = json.loads(file.read_text()) if file.exists() else None
        if stored is None or len(stored["stands"]) < len(ids):
            at = stands.nonzero().flatten()
            clock = Clock() if timed else None
            found, seconds = x[at], 0.0
            before = reset_peak() if timed else 0.0
            if len(at):
                begun = time.perf_counter()
                found = SIDES[side](prepared.network, x[at], y[at], ids[at], attack, norm, eps, clock)
                seconds = time.perf_counter() - begun
            with torch.no_grad():
                stands = stands.index_put((at,), prepared.network(found).argmax(1) == y[at])
            moved = (found.double() - x[at].double()).flatten(1).norm(ORDER[norm], dim=1)
            stored = {
                "clean": clean.tolist(),
                "stands": stands.tolist(),
                "largest_distance": float(moved.max()) if len(at) else 0.0,
            }
            if clock:
                stored |= {"megabytes": resident("VmHWM") - before}
                stored |= {"seconds": seconds, "seconds_in_network": clock.seconds}
            write_atomically(file, lambda out, stored=stored: out.write(json.dumps(stored).encode()))  # type: ignore[misc]
            print(f"{folder.name}: {side}, images {start} to {int(ids[-1])}, {attack}: {seconds:.1f} s", flush=True)
        stands = torch.tensor(stored["stands"])[: len(ids)]


def reset_peak() -> float:
    """Let Linux forget the peak of the memory that this process took; return what it takes now, in MB.

    What the allocator keeps of freed memory is given back before: the next side would take it uncounted.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(which: str) -> float:
    """The memory of this process, VmRSS now or VmHWM at its peak, in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) / 1024


def page(folder: Path) -> str:
    """What is stored in a folder, as Markdown."""
    about = json.loads((folder / "about.json").read_text())
    timed = "machine" in about
    stored = {side: _stored(folder, side) for side in SIDES}
    # Only shards that every side with any has are compared.
    present = [side for side in SIDES if stored[side]]
    common = sorted(set.intersection(*(set(stored[side]) for side in present))) if present else []
    shards = {side: [stored[side][start] for start in common] for side in present}
    stands = {side: [each for shard in shards[side] for each in shard[ATTACKS[-1]]["stands"]] for side in present}
    lines = [
        f"# AutoAttack beside pyautoattack: {about['checkpoint']}, {about['norm']}, eps {about['eps']}",
        render_table(list(_verdicts(shards, stands))),
        "\n".join(f"- {line}" for line in _differences(stands, common)),
    ]
    if timed:
        lines += [
            "Seconds, of them in the network, and the memory that an attack takes beyond what was there before it:",
            render_table(list(_times(shards))),
            "Other packages are given the network as pyautoattack's examples give it: the weights require a gradient,"
            " so FAB's backward passes go to them too. An attack's time has the checks of the network in it that each"
            " package makes first.",
        ]
    else:
        lines.append(
            "Verdicts alone, from machines that did other work too. pyautoattack attacks the network as it is or, to"
            " the same result but for rounding, with its BatchNorms folded, which takes less time."
        )
    if "torchattacks" in present:
        lines.append(
            "torchattacks' AutoAttack gives APGD and FAB 10 steps, where pyautoattack and fastadv make 100, and every"
            " other class as a target, where they have 9."
        )
    elsewhere = "" if folder.parent.name == RESULTS.name else f" --results {RESULTS.parent / folder.parent.name}"
    lines.append(
        f"Written by `python -m benchmarks.studies.autoattack_peers page{elsewhere}`: torch {about['torch']},"
        f" pyautoattack {about['pyautoattack']}"
        + (f", torchattacks {about['torchattacks']}" if "torchattacks" in about else "")
        + (f", {about['threads']} threads of {about['machine']} with {about['instructions']}." if timed else ".")
    )
    return "\n\n".join(lines) + "\n"


def _verdicts(shards: Shards, stands: dict[str, list[bool]]) -> Iterator[list[str]]:
    """Robust accuracy of each side, after each attack."""
    yield ["", "images", "clean, %", *(f"after {attack}, %" for attack in ATTACKS), "largest distance"]
    for side, mine in shards.items():
        count = len(stands[side])
        left = [[shard[ATTACKS[0]]["clean"] for shard in mine]]
        left += [[shard[attack]["stands"] for shard in mine] for attack in ATTACKS]
        shares = [f"{100 * sum(map(sum, each)) / max(count, 1):.2f}" for each in left]
        distances = (shard[attack]["largest_distance"] for shard in mine for attack in ATTACKS)
        yield [side, str(count), *shares, f"{max(distances, default=0):.7g}"]


def _times(shards: Shards) -> Iterator[list[str]]:
    """The time of each attack of each side, how much sooner than the first's it is over, and its memory."""
    yield ["", "attack", "seconds", "in the network, %", "sooner than the first", "MB"]
    first: dict[str, float] = {}
    for side, mine in shards.items():
        for name, attacks in (("all", ATTACKS), *((attack, (attack,)) for attack in ATTACKS)):
            runs = [shard[attack] for shard in mine for attack in attacks]
            most = f"{max((run['megabytes'] for run in runs), default=0):.0f}"
            seconds = sum(run["seconds"] for run in runs)
            share = 100 * sum(run["seconds_in_network"] for run in runs) / seconds if seconds else 0
            sooner = first.setdefault(name, seconds) / seconds if seconds else math.nan
            yield [side, name, f"{seconds:.1f}", f"{share:.0f}", f"{sooner:.2f}x", most]


def _differences(stands: dict[str, list[bool]], common: list[int]) -> Iterator[str]:
    """How far the robust accuracy of each side is from the first's, on which images, and from all seeds of theirs."""
    first = next(iter(stands), None)
    shares = {side: 100 * sum(mine) / len(mine) for side, mine in stands.items() if mine}
    theirs = [share for side, share in shares.items() if side.startswith("pyautoattack")]
    places = [start + k for start in common for k in range(SHARD)]
    for side, share in shares.items():
        if side == first:
            continue
        both = list(zip(places, stands[first], stands[side], strict=False))
        line = (
            f"{side} against {first}: {share - shares[first]:+.2f} points; broken by the latter alone: images"
            f" {[place for place, a, b in both if b and not a]}, by the former alone:"
            f" {[place for place, a, b in both if a and not b]}"
        )
        if theirs and not side.startswith("pyautoattack"):
            apart = max(min(theirs) - share, share - max(theirs), 0.0)
            span = f"{min(theirs):.2f} to {max(theirs):.2f}" if len(set(theirs)) > 1 else f"{min(theirs):.2f}"
            verdict = "within" if round(apart, 6) <= EQUAL else "outside of"
            line += f". Its {share:.2f} % are {verdict} {EQUAL} points of the {span} % of pyautoattack's seeds"
        yield line


def _stored(folder: Path, side: str) -> dict[int, dict[str, Any]]:
    """The shards in which all attacks of a side are over: by their first image, what is stored of each attack."""
    shards: dict[int, dict[str, Any]] = {}
    for file in folder.glob(f"{_slug(side)}-*.json"):
        start, attack = file.stem.removeprefix(f"{_slug(side)}-").split("-", 1)
        shards.setdefault(int(start), {})[attack] = json.loads(file.read_text())
    return {start: shard for start, shard in shards.items() if set(shard) == set(ATTACKS)}


def _slug(side: str) -> str:
    return side.replace(", ", "-").replace(" ", "")


if __name__ == "__main__":
    main()
