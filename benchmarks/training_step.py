"""The trainer's step beside a plain eager loop of the same recipe, in turns in one run.

python -m benchmarks.training_step [--checkpoints DIR] [--output benchmarks/results/training-step/NAME.json]

resnet56 teaches resnet20 on batches of 64 images of CIFAR-100's size. Images and labels are random, and so are weights
but for a teacher's from DIR/cifar100_resnet56.pth. Before anything is timed, the float32 losses of the first step are
compared at the same random start. The shares come from a profile of two more steps: time inside operators by what
called them, and the rest of the wall clock, Python and dispatch, as host.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.plain_loops import PlainIGDM, PlainLoop, PlainTALD
from benchmarks.spread import Spread, ratio
from fastadv.attacks import freeze
from fastadv.attacks.starts import random_rows
from fastadv.distill import IGDM, TALD, Batch, Method
from fastadv.train import models
from fastadv.train.config import Config
from fastadv.train.datasets import Split, to_pixels
from fastadv.train.machine import describe
from fastadv.train.models import Classifier, Normalize
from fastadv.train.precision import DTYPES, Shown
from fastadv.train.seeding import derive_seed
from fastadv.train.trainer import Trainer

BATCH = 64
CLASSES = 100
# Perturbations are made of signs: where a gradient is zero to rounding, another order of additions turns one.
TOLERANCE = 2e-3
PROFILED_STEPS = 2


class Differs(Exception):
    """The two steps do not compute the same loss."""


@dataclass(frozen=True)
class Row:
    """A recipe, the trainer's options for it, and its plain loop."""

    name: str
    method: Callable[[], Method]
    plain: type[PlainLoop]
    options: dict[str, Any]
    goal: float
    # Copies of each image in the attack, and the radius of their random start.
    copies: int
    start_eps: float


ROWS = (
    Row(
        "TALD, frozen teacher in float32",
        lambda: TALD(particles=4, steps=3),
        PlainTALD,
        {"freeze_teacher": True},
        goal=1.6,
        copies=4,
        start_eps=8 / 255,
    ),
    Row(
        "TALD, frozen teacher in bfloat16",
        lambda: TALD(particles=4, steps=3),
        PlainTALD,
        {"freeze_teacher": True, "teacher_precision": "bfloat16"},
        goal=2.5,
        copies=4,
        start_eps=8 / 255,
    ),
    Row(
        "AdaAD + IGDM, frozen teacher in float32",
        lambda: IGDM(),
        PlainIGDM,
        {"freeze_teacher": True},
        goal=1.6,
        copies=1,
        start_eps=0.001 * 3**0.5,
    ),
)


class Bench:
    """Both ways of a row, from the same weights on the same data."""

    def __init__(self, row: Row, checkpoints: Path | None, device: str, folder: Path, images: int) -> None:
        self.row = row
        teacher = _network("resnet56", checkpoints, device, seed=0).eval()
        student = _network("resnet20", None, device, seed=1)
        config = Config(batch_size=BATCH, device=device, tensorboard=False, channels_last=True, **row.options)
        split = _random_images(images, device)
        with warnings.catch_warnings():
            # A plainly trained teacher is what IGDM warns of; here only its time counts.
            warnings.simplefilter("ignore", UserWarning)
            self.trainer = Trainer(
                model=_channels_last(copy.deepcopy(student)),
                method=row.method().to(device),
                teacher=Shown(freeze(teacher, dtype=DTYPES[config.teacher_precision])),
                train=split,
                test=split,
                config=config,
                seed=0,
                folder=folder,
                label=row.name,
            )
        self.plan = self.trainer.batches.plan(seed=0, epoch=0)
        self.split, self.index = split, 0
        self.plain, self.plain_backward = (self._plain(student, teacher, backward=mode) for mode in (False, True))
        self.plain_data = torch.Generator(device="cpu").manual_seed(0)

    def _plain(self, student: nn.Module, teacher: nn.Module, *, backward: bool) -> PlainLoop:
        student, teacher = copy.deepcopy(student), copy.deepcopy(teacher).requires_grad_(True)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return self.row.plain(student, teacher, optimizer, backward)

    def compare(self) -> dict[str, float]:
        """The losses of the first batch, both ways in float32. Raises Differs where they are further than TOLERANCE."""
        seed = derive_seed(0, "first")
        (piece,) = self.trainer.batches.pieces(self.plan, 0, progress=0.5, seed=seed)
        batch, plain = piece.batch, copy.deepcopy(self.plain)
        start = random_rows(
            batch.x.contiguous(),
            self.row.copies,
            eps=self.row.start_eps,
            norm="linf",
            bounds=(0.0, 1.0),
            seed=seed,
            sample_ids=batch.index,
        )
        if isinstance(plain, PlainIGDM):
            plain.progress = 0.5
        expected = plain.loss(batch.x.contiguous(), batch.y, start).item()
        found = self._fused_loss(batch)
        difference = abs(found - expected) / abs(expected)
        half = self.row.options.get("teacher_precision", "float32") != "float32"
        if not half and not difference <= TOLERANCE:
            raise Differs(f"the first losses are {found:.6g} and {expected:.6g}, {difference:.1e} apart")
        return {"fused": found, "plain": expected, "relative_difference": difference}

    def _fused_loss(self, batch: Batch) -> float:
        model = copy.deepcopy(self.trainer.model).train()
        return self.trainer.method(model, self.trainer.teacher, batch)["loss"].item()

    def fused_step(self) -> None:
        self.trainer._train_step(self.plan, 0, self.index)
        self.index = (self.index + 1) % self.trainer.batches.steps_per_epoch

    def plain_step(self, plain: PlainLoop) -> None:
        chosen = torch.randint(len(self.split), (BATCH,), generator=self.plain_data).to(self.split.images.device)
        plain.step(to_pixels(self.split.images[chosen]), self.split.labels[chosen])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, help="folder of cifar100_resnet56.pth, the teacher's weights")
    parser.add_argument("--output", type=Path, help="write JSON here, and the table beside it as Markdown")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--rounds", type=int, default=7, help="of one step each way (default: 7)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    command = "python -m benchmarks.training_step"
    machine = describe(command=command, device=arguments.device, threads=torch.get_num_threads())
    results = [
        measure(row, arguments.checkpoints, arguments.device, arguments.rounds)
        for row in ROWS
        if arguments.only in row.name
    ]
    weights = "public checkpoints" if arguments.checkpoints else "random"
    table = render(results)
    print(table)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine, "teacher_weights": weights, "batch": BATCH, "rows": results}
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")
        facts = "\n".join(f"- {name}: {value}" for name, value in {**machine, "Teacher's weights": weights}.items())
        arguments.output.with_suffix(".md").write_text(f"# The trainer's step\n\n{table}\n\n{facts}\n")


def measure(row: Row, checkpoints: Path | None, device: str, rounds: int, images: int = 20 * BATCH) -> dict[str, Any]:
    """Compare, time in turns and profile one row."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(row, checkpoints, device, Path(folder), images)
        losses = bench.compare()
        ways: dict[str, Callable[[], None]] = {
            "fused": bench.fused_step,
            "plain": lambda: bench.plain_step(bench.plain),
            "plain_backward": lambda: bench.plain_step(bench.plain_backward),
        }
        for step in ways.values():
            step()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, step in ways.items():
                seconds[name].append(_timed(step, device))
        return {
            "row": row.name,
            "goal": row.goal,
            "first_losses": losses,
            "images_per_second": {name: BATCH / statistics.median(each) for name, each in seconds.items()},
            "seconds": seconds,
            "ratio": {name: asdict(ratio(seconds[name], seconds["fused"])) for name in ways if name != "fused"},
            "shares": shares(bench, device),
        }


def shares(bench: Bench, device: str) -> dict[str, float]:
    """Shares of the trainer's step: "model", "update" (attack steps, losses, optimizer), "data" and "host"."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with _data_marked(bench.trainer), profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            bench.fused_step()
        _wait(device)
        wall = (time.perf_counter() - began) * 1e6
    spent = dict.fromkeys(("model", "update", "data"), 0.0)
    for event in profiler.events():
        if "::" not in event.name or event.name.startswith("autograd::"):
            continue
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        spent[_kind(event)] += own
    return {**{kind: value / wall for kind, value in spent.items()}, "host": 1 - sum(spent.values()) / wall}


def _kind(event: Any) -> str:
    if event.name.startswith("fastadv::"):
        return "update"
    while event is not None:
        if event.name == "data":
            return "data"
        if event.name.startswith("Optimizer."):
            return "update"
        event = event.cpu_parent
    return "model"


@contextmanager
def _data_marked(trainer: Trainer) -> Any:
    pieces = trainer.batches.pieces

    def marked(*arguments: Any, **keywords: Any) -> Any:
        with record_function("data"):
            return pieces(*arguments, **keywords)

    trainer.batches.pieces = marked  # type: ignore[method-assign]
    try:
        yield
    finally:
        del trainer.batches.pieces


def render(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    head = ["", "images/s", "plain", "plain, `backward()`", "ratio", "ratio to `backward()`", "goal", "first losses"]
    lines = [[*head, "model", "update", "data", "host"]]
    for result in results:
        rates, ratios = result["images_per_second"], result["ratio"]
        lines.append(
            [
                result["row"],
                *(f"{rates[name]:.0f}" for name in ("fused", "plain", "plain_backward")),
                *(_spread(ratios[name]) for name in ("plain", "plain_backward")),
                f"{result['goal']:.1f}",
                f"{result['first_losses']['relative_difference']:.0e} apart",
                *(f"{share:.0%}" for share in result["shares"].values()),
            ]
        )
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:]])


def _spread(values: dict[str, float]) -> str:
    spread = Spread(**values)
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _timed(step: Callable[[], None], device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _network(name: str, checkpoints: Path | None, device: str, *, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.build(name, num_classes=CLASSES, image_shape=(3, 32, 32))
    if checkpoints is not None:
        models.load_weights(network, checkpoints / f"cifar100_{name}.pth")
    return Classifier(Normalize((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)), network).to(device)


def _channels_last(model: Classifier) -> Classifier:
    torch.nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    return model


def _random_images(count: int, device: str) -> Split:
    generator = torch.Generator().manual_seed(0)
    images: Tensor = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Split(images, labels).to(device)


if __name__ == "__main__":
    main()
