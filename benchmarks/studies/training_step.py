"""The trainer's step beside a plain eager loop of the same recipe, in turns in one run.

python -m benchmarks.studies.training_step [--checkpoints DIR] [--output NAME]: resnet56 teaches resnet20 on batches of
64 images of CIFAR-100's size. Images and labels are random, and so are weights but for a teacher's from
DIR/cifar100_resnet56.pth. What the attack finds in the first step and the loss are compared before anything is timed,
from the same random start. Prints a table; --output NAME writes NAME.md and NAME.json.

The shares come from a profile of two more steps: time inside operators by what called them, and the rest of the wall
clock, Python and dispatch, as host. The arithmetic is what PyTorch counts of the plain step, convolutions and matrix
products, over the trainer's time, beside a large matrix product in the teacher's precision, in turns with the steps.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.pages.tables import markdown, spread
from benchmarks.studies.plain_loops import PlainIGDM, PlainKD, PlainLoop, PlainPGDAT, PlainTALD
from benchmarks.suite.machine import describe
from benchmarks.suite.measure import uncollected
from benchmarks.suite.runner import Differs
from benchmarks.suite.spread import ratio
from fastadv.attacks import freeze
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.distill import IGDM, KD, PGDAT, TALD, AdaAD, Batch, Method
from fastadv.distill.parts.float32_output import DTYPES, Float32Output
from fastadv.distill.parts.robust import NEAR, RobustMethod
from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.config.auto_precision import ATTACK_MODES
from fastadv.train.config.train_config import Config, Precision
from fastadv.train.data.splits import Split, to_pixels
from fastadv.train.loop.trainer import Trainer
from fastadv.train.networks import catalogue
from fastadv.train.networks.classifier import Classifier
from fastadv.train.networks.weights import load_weights
from fastadv.train.runtime.errors import CheckpointError
from fastadv.train.runtime.machine import cpu_threads

# Perturbations are made of signs: where a gradient is zero to rounding, another order of additions turns one, and
# between ten steps on networks that are not robust it grows.
LEAST_EQUAL_PIXELS = 0.9
TOLERANCE = 2e-3
PROGRESS = 0.5
PROFILED_STEPS = 2
# Rows and columns of the matrices, and how often they are multiplied in a turn.
PRODUCT, PRODUCTS = 1024, 10
SIZE = 32
CLASSES = 100


@dataclass(frozen=True)
class Scale:
    """Sizes of every row: networks of fastadv.train.networks, images in a batch, folder of the teacher's weights."""

    teacher: str = "resnet56"
    student: str = "resnet20"
    batch: int = 64
    checkpoints: Path | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """A recipe: the method, its plain loop, the precision of both networks and how much faster the step is to be.

    method: of a name of its attack_mode, where it attacks the student.
    attacked: the images [N * copies, ...] that the method's attack finds, of (method, student, teacher, batch).
    teacher, student: precision of the frozen teacher; of the student and of the copy of it that is attacked.
    compiled: whether both networks, and that copy, go through torch.compile.
    copies, start_eps: rows of each image in the method's attack, and the radius of their random start.
    """

    name: str
    method: Callable[[str], Method]
    attacked: Callable[[Any, nn.Module, nn.Module, Batch], Tensor]
    plain: type[PlainLoop]
    goal: float
    teacher: Precision = "float32"
    student: Precision = "float32"
    compiled: bool = False
    copies: int = 1
    start_eps: float = 8 / 255


def _particles(method: TALD, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    return method.draw(teacher, batch.x, batch.y, seed=batch.seed).flatten(0, 1)


def _adversarial(method: RobustMethod, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    return method.views(student, teacher, batch).adversarial


def _adversarial_of_base(method: IGDM, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    return _adversarial(method.base, student, teacher, batch)


def _clean(method: KD, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    return batch.x


def _tald(attack_mode: str) -> TALD:
    return TALD(particles=4, steps=3)


def _igdm(attack_mode: str) -> IGDM:
    return IGDM(AdaAD(attack_mode=attack_mode))


def _pgd_at(attack_mode: str) -> PGDAT:
    return PGDAT(attack_mode=attack_mode)


def _kd(attack_mode: str) -> KD:
    return KD()


_AUTO: dict[str, Any] = {"teacher": "bfloat16", "student": "bfloat16", "compiled": True}

ROWS = (
    Row("TALD, float32", _tald, _particles, PlainTALD, 1.6, copies=4),
    Row("TALD, teacher in bfloat16", _tald, _particles, PlainTALD, 2.5, "bfloat16", copies=4),
    Row("TALD, auto", _tald, _particles, PlainTALD, 3.5, **_AUTO, copies=4),
    Row("AdaAD + IGDM, float32", _igdm, _adversarial_of_base, PlainIGDM, 1.6, start_eps=NEAR),
    Row("AdaAD + IGDM, auto", _igdm, _adversarial_of_base, PlainIGDM, 3.0, **_AUTO, start_eps=NEAR),
    Row("PGD-AT, float32", _pgd_at, _adversarial, PlainPGDAT, 1.0),
    Row("PGD-AT, auto", _pgd_at, _adversarial, PlainPGDAT, 2.5, **_AUTO),
    Row("KD, float32", _kd, _clean, PlainKD, 1.0),
    Row("KD, auto", _kd, _clean, PlainKD, 1.6, **_AUTO),
)


@dataclass
class Bench:
    """Both ways of a row, from the same weights on the same images."""

    row: Row
    scale: Scale
    folder: Path
    images: Split = field(init=False)

    def __post_init__(self) -> None:
        row, scale = self.row, self.scale
        self.images = _random_images(8 * scale.batch, scale.device)
        self.teacher = _network(scale.teacher, scale, seed=0).eval()
        student = _network(scale.student, Scale(device=scale.device), seed=1)
        config = Config(
            batch_size=scale.batch,
            device=scale.device,
            tensorboard=False,
            channels_last=True,
            freeze_teacher=True,
            teacher_precision=row.teacher,
            precision=row.student,
            compile=row.compiled,
        )
        with _unwarned():
            self.trainer = Trainer(
                model=_channels_last(copy.deepcopy(student)),
                method=row.method(ATTACK_MODES[row.student]).to(scale.device),
                teacher=self._frozen(row.teacher, compiled=row.compiled),
                train=self.images,
                test=self.images,
                config=config,
                seed=0,
                folder=self.folder,
                label=row.name,
            )
        self.plan = self.trainer.batches.plan(seed=0, epoch=0)
        self.index = 0
        self.plain, self.plain_backward = (self._plain(student, backward=mode) for mode in (False, True))
        self.draws = torch.Generator().manual_seed(0)

    def compare(self) -> dict[str, float]:
        """The first step both ways: losses of the plain loop, of the trainer in float32 and as it will run.

        "equal_pixels": the share of them in float32 that both attacks leave at the same value to 1e-5. Raises Differs
        for fewer than LEAST_EQUAL_PIXELS, and for losses in float32 further apart than TOLERANCE, relatively.
        """
        seed = derive_seed(0, "first")
        (part,) = self.trainer.batches.micro_batches(self.plan, 0)
        batch = Batch(part.x, part.y, progress=PROGRESS, seed=seed)
        x, y = batch.x.contiguous(), batch.y
        start = Ball(self.row.start_eps).random_rows(x, self.row.copies, Noise(seed))
        plain, teacher = copy.deepcopy(self.plain), self._frozen("float32")
        model = copy.deepcopy(self.trainer.model).train()
        method = self.row.method(ATTACK_MODES["float32"]).to(self.scale.device)
        with _unwarned():
            method.build(model, teacher, x, images=len(self.images))
        attacked = self.row.attacked(method, model, teacher, batch)
        found_by_plain = plain.attack(x, y, start)
        equal = ((attacked - found_by_plain).abs() < 1e-5).float().mean().item()
        if not equal >= LEAST_EQUAL_PIXELS:
            raise Differs(f"{self.row.name}: {equal:.2%} of the attacked pixels are equal")
        expected, found = plain.loss(x, y, found_by_plain).item(), method(model, teacher, batch)["loss"].item()
        if not abs(found - expected) <= TOLERANCE * abs(expected):
            raise Differs(f"{self.row.name}: the first losses are {found:.6g} and {expected:.6g}")
        distiller = self.trainer.distiller
        as_run = self.trainer.method(copy.deepcopy(distiller.student).train(), distiller.teacher, batch)["loss"].item()
        return {"equal_pixels": equal, "plain": expected, "float32": found, "as_run": as_run}

    def fused_step(self) -> None:
        self.trainer._train_step(self.plan, 0, self.index)
        self.index = (self.index + 1) % self.trainer.batches.steps_per_epoch

    def plain_step(self, loop: PlainLoop) -> None:
        chosen = torch.randint(len(self.images), (self.scale.batch,), generator=self.draws).to(self.scale.device)
        loop.step(to_pixels(self.images.images[chosen]), self.images.labels[chosen])

    def _frozen(self, precision: Precision, *, compiled: bool = False) -> Float32Output:
        return Float32Output(freeze(self.teacher, dtype=DTYPES[precision]), compiled=compiled)

    def _plain(self, student: nn.Module, *, backward: bool) -> PlainLoop:
        student, teacher = copy.deepcopy(student), copy.deepcopy(self.teacher)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        return self.row.plain(student, teacher, optimizer, progress=PROGRESS, backward=backward)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.training_step", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, help="folder of cifar100_resnet56.pth, the teacher's weights")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--rounds", type=int, default=9, help="of one step each way (default: 9)")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument(
        "--output",
        type=Path,
        help="write NAME.md and NAME.json; with --only, rows that are there and not run stay, of the same commit",
    )
    arguments = parser.parse_args()
    scale = Scale(checkpoints=arguments.checkpoints, device=arguments.device)
    chosen = [row for row in ROWS if arguments.only in row.name]
    if not chosen:
        parser.error(f"--only: no row has {arguments.only!r} in its name")
    stored = arguments.output.with_suffix(".json") if arguments.output else None
    others = json.loads(stored.read_text()) if stored and arguments.only and stored.exists() else None
    with cpu_threads(arguments.threads):
        machine = describe(torch.device(arguments.device))
        if others and others["machine"]["fastadv"] != machine["fastadv"]:
            parser.error(f"--only: {stored} is of fastadv {others['machine']['fastadv']}, this is {machine['fastadv']}")
        try:
            rows = [measure(row, scale, arguments.rounds) for row in chosen]
        except CheckpointError as error:
            parser.error(f"--checkpoints: {error}")
    weights = "random" if arguments.checkpoints is None else "public"
    results = {"machine": machine, "teacher_weights": weights, "batch": scale.batch, "rows": rows}
    print(table(rows))
    if stored:
        if others:
            found = {row["row"]: row for row in [*others["rows"], *rows]}
            results["rows"] = [found[row.name] for row in ROWS if row.name in found]
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(results, indent=1) + "\n")
        arguments.output.with_suffix(".md").write_text(page(results))
        print(f"wrote {arguments.output}.md and .json")


def measure(row: Row, scale: Scale, rounds: int) -> dict[str, Any]:
    """Compare, time in turns and profile one row."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(row, scale, Path(folder))
        losses = bench.compare()
        ways: dict[str, Callable[[], None]] = {
            "fused": bench.fused_step,
            "plain": lambda: bench.plain_step(bench.plain),
            "plain_backward": lambda: bench.plain_step(bench.plain_backward),
        }
        for step in ways.values():
            step()
        with _Counter() as counter:
            bench.plain_step(bench.plain)
        multiply = _products(DTYPES[row.teacher], scale.device)
        multiply()
        turns = [*ways.items(), ("product", multiply)]
        seconds: dict[str, list[float]] = {name: [] for name, _ in turns}
        for first in range(rounds):
            for k in range(len(turns)):
                name, step = turns[(first + k) % len(turns)]
                seconds[name].append(_timed(step, scale.device))
        products = seconds.pop("product")
        return {
            "row": row.name,
            "goal": row.goal,
            "first_losses": losses,
            "images_per_second": {name: scale.batch / statistics.median(each) for name, each in seconds.items()},
            "seconds": seconds,
            "ratio": {name: asdict(ratio(seconds[name], seconds["fused"])) for name in ways if name != "fused"},
            "shares": shares(bench),
            "operations": counter.operations,
            "product_operations_per_second": 2 * PRODUCT**3 * PRODUCTS / statistics.median(products),
        }


def arithmetic(row: Mapping[str, Any], ratio: float | None = None) -> float:
    """The operations of the trainer's step a second, in those of a matrix product.

    ratio: of a step that is so many times as fast as the plain loop's instead.
    """
    seconds = statistics.median(row["seconds"]["fused"])
    if ratio is not None:
        seconds = statistics.median(row["seconds"]["plain"]) / ratio
    return row["operations"] / seconds / row["product_operations_per_second"]


def shares(bench: Bench) -> dict[str, float]:
    """Shares of the trainer's step: "model", "update" (attack steps, losses, optimizer), "data" and "host"."""
    device = bench.scale.device
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with _data_marked(bench.trainer), profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(PROFILED_STEPS):
            bench.fused_step()
        _wait(device)
        wall = (time.perf_counter() - began) * 1e6
    spent = dict.fromkeys(("model", "update", "data"), 0.0)
    for event in profiler.events():
        # Of compiled networks what is no operator is named by their graph.
        computes = "::" in event.name or "CompiledFxGraph" in event.name
        if not computes or event.name.startswith("autograd::"):
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
def _data_marked(trainer: Trainer) -> Iterator[None]:
    micro_batches = trainer.batches.micro_batches

    def marked(*arguments: Any, **keywords: Any) -> Any:
        with record_function("data"):
            return micro_batches(*arguments, **keywords)

    trainer.batches.micro_batches = marked  # type: ignore[method-assign]
    try:
        yield
    finally:
        del trainer.batches.micro_batches


def table(rows: list[dict[str, Any]]) -> str:
    """A line a row."""
    head = ["images/s", "trainer", "plain", "plain, `backward()`", "trainer / plain", "trainer / `backward()`", "goal"]
    lines = [[*head, "arithmetic", "losses apart", "model", "update", "data", "host"]]
    for row in rows:
        losses = row["first_losses"]
        lines.append(
            [
                row["row"],
                *(f"{row['images_per_second'][way]:.1f}" for way in ("fused", "plain", "plain_backward")),
                *(spread(row["ratio"][way]) for way in ("plain", "plain_backward")),
                f"{row['goal']:.1f}",
                f"{arithmetic(row):.2f}",
                f"{abs(losses['as_run'] / losses['plain'] - 1):.0e}",
                *(f"{share:.0%}" for share in row["shares"].values()),
            ]
        )
    return markdown(lines)


def goals(rows: list[dict[str, Any]]) -> str:
    """The rows whose goal was not reached, in a sentence."""
    missed = [
        f"{row['row']}: {row['ratio']['plain']['median']:.2f} of {row['goal']:.1f}, which would take"
        f" {arithmetic(row, row['goal']):.2f} of the arithmetic"
        for row in rows
        if row["ratio"]["plain"]["median"] < row["goal"]
    ]
    return f"Goals not reached: {'; '.join(missed)}." if missed else "All goals were reached."


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    machine = results["machine"]
    rounds = min(len(row["seconds"]["fused"]) for row in results["rows"])
    given = " --checkpoints DIR" if results["teacher_weights"] == "public" else ""
    return f"""# The trainer's step

resnet56 to resnet20, batches of {results["batch"]} images of 3x32x32, {results["teacher_weights"]} teacher weights;
{machine["cpu"]}, {machine["threads"]} threads, torch {machine["torch"]}, fastadv {machine["fastadv"]}, GPU:
{machine["gpu"]}. Written by `python -m benchmarks.studies.training_step{given} --rounds {rounds}`.

{table(results["rows"])}

{goals(results["rows"])}

The trainer runs with a frozen teacher and channels_last, and attacks a frozen copy of the student; auto is what
`--precision auto` chooses on a CPU with AVX512-BF16: bfloat16, and all three compiled. Plain is the same recipe as its
published code computes it, eager and in float32: the attack asks autograd for the gradient by the images; with
`backward()` it computes those of all parameters too, as many loops do. TALD is the projected variant, a reconstruction,
and attacks all images, 4 particles each, where the default recipes attack a part of them.

Ratios are of the time of a step, in turns, another one first in each of {rounds} rounds; in brackets the bootstrap
interval of their median, which of fewer than 15 rounds is narrower than 95 %. Goal: the ratio aimed at. Losses apart:
the first step's, of the trainer as it runs and the plain loop; in float32 they agree to {TOLERANCE:g}. Arithmetic: the
operations of a step a second, as PyTorch counts them in the plain one, in those of a {PRODUCT} x {PRODUCT} matrix
product in the teacher's precision, in the same run. The shares are of the trainer's step: model, the networks' forward
and backward; update, attack steps, losses and optimizer.
"""


@contextmanager
def _unwarned() -> Iterator[None]:
    """A plainly trained teacher is what IGDM warns of; here only its time counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _timed(step: Callable[[], None], device: str) -> float:
    _wait(device)
    with uncollected():
        began = time.perf_counter()
        step()
        _wait(device)
        return time.perf_counter() - began


class _Counter(TorchDispatchMode):
    """Counts operations by PyTorch's own formulas; its FlopCounterMode has hooks with which autograd.grad fails."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        return result


def _products(dtype: torch.dtype | None, device: str) -> Callable[[], None]:
    left, right = (torch.rand(PRODUCT, PRODUCT, dtype=dtype, device=device) for _ in range(2))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(left, right)

    return multiply


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _network(name: str, scale: Scale, *, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = catalogue.build(name, num_classes=CLASSES, image_shape=(3, SIZE, SIZE))
    if scale.checkpoints is not None:
        load_weights(network, scale.checkpoints / f"cifar100_{name}.pth")
    return Classifier(network, (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)).to(scale.device)


def _channels_last(model: Classifier) -> Classifier:
    torch.nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    return model


def _random_images(count: int, device: str) -> Split:
    generator = torch.Generator().manual_seed(0)
    images: Tensor = torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Split(images.to(device), labels.to(device))


if __name__ == "__main__":
    main()
