"""Do TALD's particles cost less, for the same samples, where images keep them or share the first backward pass?

python -m benchmarks.studies.cheaper_particles [--seeds N] [--epochs N] [--output NAME]: a teacher of scikit-learn's
digits, and students by TALD over KD whose particles are drawn in four ways. Prints tables; --output NAME writes NAME.md
and NAME.json.

- noise, k steps: from uniform noise in the ball, k SVGD steps; three are what TALD does.
- shared, k steps: the first step takes the score of the clean image for each of its particles, one row in place of n.
- kept, 1 step: each image goes on from its own particles of the last epoch, which it keeps as 8-bit differences.

All steps have the length of TALD's own, so that a way with fewer goes less far. Images are not augmented: kept
particles would have to move with their image, and are here at their best.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pages.tables import markdown
from benchmarks.suite.machine import describe
from fastadv.attacks.loop.arguments import step_count
from fastadv.attacks.loop.ascent import ascend
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, objective_of
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.methods.svgd import Score, Stein, particle_stepper
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.distill import KD, TALD, CrossEntropy, Method
from fastadv.train.config.train_config import Config, resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import Dataset, subset
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer
from fastadv.train.report.intervals import paired_difference
from fastadv.train.runtime.machine import cpu_threads

EPS = 0.1
PARTICLES = 4
STEPS = 3
LEVELS = 127


@dataclass(frozen=True)
class Way:
    """One way of drawing: its start, "noise", "shared" or "kept", and its SVGD steps."""

    start: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.start}, {self.steps} step{'s'[: self.steps > 1]}"

    @property
    def rows(self) -> int:
        """Rows of the teacher's forward and backward passes, per image."""
        return PARTICLES * self.steps - (PARTICLES - 1 if self.start == "shared" else 0)


WAYS = [
    Way("noise", STEPS),
    Way("shared", STEPS),
    Way("noise", 2),
    Way("shared", 2),
    Way("noise", 1),
    Way("kept", 1),
]


class Drawn(TALD):
    """TALD with particles drawn in ``way``; it keeps those of ``images`` training images where the way does."""

    def __init__(self, way: Way, images: int, shape: Sequence[int]) -> None:
        super().__init__(KD(4.0, 0.9), weight=0.1, particles=PARTICLES, steps=STEPS, eps=EPS)
        self.way = way
        self.loss: list[Tensor] = []
        self.spread: list[Tensor] = []
        if way.start == "kept":
            self.register_buffer("kept", torch.zeros(images, PARTICLES, *shape, dtype=torch.int8))
            self.register_buffer("visited", torch.zeros(images, dtype=torch.bool))

    def _sample(
        self, teacher: Network, x: Tensor, y: Tensor, seed: int | Tensor, ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        assert ids is not None
        particles = self._draw(teacher, x, y, seed, ids)
        with torch.no_grad():
            self.loss.append(nn.functional.cross_entropy(teacher(particles.flatten(0, 1)), repeat_rows(y, PARTICLES)))
            pairs = torch.cdist(particles.flatten(2), particles.flatten(2)).sum((1, 2)) / (PARTICLES * (PARTICLES - 1))
            self.spread.append((pairs / x[0].numel() ** 0.5).mean())
        return particles, None

    def _draw(self, teacher: Network, x: Tensor, y: Tensor, seed: int | Tensor, ids: Tensor) -> Tensor:
        ball, shape = Ball(EPS, "linf", (0.0, 1.0)), (len(x), PARTICLES)
        networks = Networks(teacher)
        move = particle_stepper(x.contiguous(), ball, Stein(), 2.5 * EPS / STEPS)
        left = self.way.steps

        def step(rows: Tensor, score: Tensor) -> Tensor:
            return move(rows.unflatten(0, shape), score.unflatten(0, shape)).flatten(0, 1)

        with no_trace(networks.members):
            rows = ball.random_rows(x, PARTICLES, Noise(seed, ids))
            if self.way.start == "kept":
                own = (x[:, None] + EPS / LEVELS * self.kept[ids]).clamp(0, 1).flatten(0, 1)
                visited = repeat_rows(self.visited[ids], PARTICLES)
                rows = torch.where(visited.view(-1, *[1] * (x.dim() - 1)), own, rows)
            if self.way.start == "shared":
                score = Score(objective_of(networks, x, Goal(y), 1, scaled=True), 1).evaluate(x).grad
                rows = step(rows, repeat_rows(score, PARTICLES))
                left -= 1
            score = Score(objective_of(networks, x, Goal(y), PARTICLES, scaled=True), PARTICLES)
            rows = ascend(score, rows, step, step_count(left, x).of_copies(PARTICLES))
        particles = rows.unflatten(0, shape)
        if self.way.start == "kept":
            levels = ((particles - x[:, None]) / EPS * LEVELS).round().to(torch.int8)
            self.kept.index_copy_(0, ids, levels)
            self.visited.index_fill_(0, ids, True)
        return particles


@dataclass(frozen=True)
class Result:
    """One student: accuracies in [0, 1], seconds of training, means over the last epoch's particles."""

    way: str
    seed: int
    clean: float
    pgd: float
    seconds: float
    loss: float
    spread: float


def run(seeds: int, epochs: int) -> list[Result]:
    """Train a student of each way and seed, the ways of a seed one after the other."""
    flags = {"epochs": str(epochs), "augmentation": "none", "tensorboard": False, "eval_epochs": str(epochs)}
    config = resolve(recipe="digits", flags=flags)
    data = datasets.load("digits")
    with cpu_threads(1), tempfile.TemporaryDirectory() as folder:
        teacher, _ = _trained(
            config, data, CrossEntropy(), None, seed=0, folder=Path(folder) / "teacher", network="teacher"
        )
        results = []
        for seed in range(seeds):
            for number, way in enumerate(WAYS):
                results.append(_student(config, data, teacher, way, seed, Path(folder) / f"{seed}-{number}"))
                print(results[-1], file=sys.stderr, flush=True)
    return results


def _student(config: Config, data: Dataset, teacher: nn.Module, way: Way, seed: int, folder: Path) -> Result:
    assert config.student_samples is not None
    method = Drawn(way, config.student_samples, data.image_shape)
    began = time.perf_counter()
    _, found = _trained(config, data, method, teacher, seed=seed, folder=folder, network="student")
    last = max(len(method.loss) // config.epochs, 1)
    loss, spread = (torch.stack(each[-last:]).mean().item() for each in (method.loss, method.spread))
    seconds = time.perf_counter() - began
    return Result(way.name, seed, found["clean"], found["pgd"], seconds, loss, spread)


def _trained(
    config: Config, data: Dataset, method: Method, teacher: nn.Module | None, *, seed: int, folder: Path, network: str
) -> tuple[nn.Module, dict[str, Any]]:
    if network == "teacher":
        config = config.replaced(epochs=config.teacher_epochs)
    model = build_classifier(getattr(config, network), config, data, seed=seed)
    train = data.train if network == "teacher" else subset(data.train, config.student_samples or 0, seed=seed)
    trainer = Trainer(
        model=model,
        method=method,
        teacher=teacher,
        train=train,
        test=data.test,
        config=config,
        seed=seed,
        folder=folder,
        label=network,
    )
    return model, trainer.fit()


def table(results: Sequence[Result]) -> str:
    """Return the ways as Markdown: their cost, their particles, and their students against those of the first way."""
    heads = ["particles", "teacher's rows an image", "their loss", "their spread", "clean, %", "minus first"]
    rows = [[*heads, "under PGD, %", "minus first"]]
    for way in WAYS:
        own = [result for result in results if result.way == way.name]
        row = [way.name, str(way.rows), f"{statistics.mean(r.loss for r in own):.2f}"]
        row.append(f"{statistics.mean(r.spread for r in own):.4f}")
        for key in ("clean", "pgd"):
            values, first = (
                {r.seed: getattr(r, key) for r in results if r.way == name} for name in (way.name, WAYS[0].name)
            )
            row.append(f"{100 * statistics.mean(values.values()):.2f}")
            found = None if way is WAYS[0] else paired_difference(values, first)
            if found is None:
                row.append("")
                continue
            ends = "" if found.interval is None else " [{:+.2f}, {:+.2f}]".format(*(100 * e for e in found.interval))
            row.append(f"{100 * found.mean:+.2f}{ends}")
        rows.append(row)
    return markdown(rows)


def write(output: Path, results: Sequence[Result], command: str) -> None:
    """Write the table with the command that made it to OUTPUT.md, and every student to OUTPUT.json."""
    machine = describe(torch.device("cpu"))
    where = f"Made by `{command}` on {machine['cpu']}, one thread."
    notes = (
        "Students of the digits by TALD over KD; a digits_cnn teaches. Loss: the teacher's cross-entropy on the "
        "last epoch's particles, which they climb. Spread: the mean l2 distance of an image's particles over sqrt(D). "
        "Differences in points, paired by seed, with the 95 % t interval of their mean."
    )
    output.with_suffix(".md").write_text(f"# Particles that cost less\n\n{table(results)}\n\n{notes}\n\n{where}\n")
    content = {"machine": machine, "students": [asdict(result) for result in results]}
    output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="students of each way; default 5")
    parser.add_argument("--epochs", type=int, default=150, help="epochs of a student; default 150")
    parser.add_argument("--output", type=Path, help="write NAME.md and NAME.json")
    options = parser.parse_args(arguments)
    results = run(options.seeds, options.epochs)
    print(table(results))
    if options.output is not None:
        given = shlex.join(sys.argv[1:] if arguments is None else arguments)
        write(options.output, results, f"python -m benchmarks.studies.cheaper_particles {given}")


if __name__ == "__main__":
    main()
