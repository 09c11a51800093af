"""One training of a call: ``training.py NAME DEADLINE --out DIR --runs DIR [FLAG OF fastadv train ...]``.

A new run is measured before it begins: its methods take a few steps each, in a run that is thrown away, and the epochs
are those that fit before DEADLINE, which is of time.monotonic(). Both runs are of this process, so that what the first
has compiled serves the second.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fastadv.train.cli import main as fastadv
from fastadv.train.config.train_config import Config
from fastadv.train.runtime.checkpoint import Checkpoints
from gpu_reproduce.plan import INSTEAD, TRAININGS, Plan, Training, fitting_epochs


def train(
    training: Training, run: Path, deadline: float, out: Path, seeds: str, timed_steps: int, flags: list[str]
) -> None:
    """Begin the training in the folder ``run``, or go on with it. Exits where `fastadv train` does not succeed.

    One of which nothing was saved, or nothing came along, is begun anew: it had the time of another call.
    """
    flags = [*flags, "--no-tensorboard"]
    seconds = deadline - time.monotonic()
    if any(any(run.glob(f"*-seed*/{saved}")) for saved in ("result.json", "checkpoints/step-*.pt")):
        epochs = Config.read_toml(run / Config.FILE)["epochs"]
        # How a run was begun it goes on.
        flags = [flag for flag in flags if flag not in INSTEAD]
        _fastadv("--resume", "--run-dir", str(run), *flags, "--seeds", seeds, "--epochs", str(epochs))
        return
    shutil.rmtree(run, ignore_errors=True)
    flags = ["--recipe", training.recipe, *flags]
    trial = run.with_name(f"{run.name}-trial")
    _try(trial, timed_steps, flags)
    step_seconds, compile_seconds = timed(trial)
    config = Config.read_toml(trial / Config.FILE)
    shutil.rmtree(trial)

    count, most = len(seeds.split(",")), config["epochs"]
    left = deadline - time.monotonic() - training.after
    epochs = fitting_epochs(count * sum(step_seconds.values()), config["steps_per_epoch"], left, most)
    plan = Plan(run.name, seconds, step_seconds, compile_seconds, count * len(step_seconds), epochs, most)
    plan.write(out)
    print(plan, flush=True)
    _fastadv("--run-dir", str(run), *flags, "--seeds", seeds, "--epochs", str(epochs))


def _try(trial: Path, steps: int, flags: Sequence[str]) -> None:
    """Take twice so many steps with each method, in the folder ``trial``, with a checkpoint after half of them."""
    shutil.rmtree(trial, ignore_errors=True)
    briefly = ["--max-steps", str(2 * steps), "--checkpoint-steps", str(steps)]
    unseen = ["--eval-samples", "100", "--pgd-samples", "100", "--eval-attack", "pgd"]
    _fastadv("--run-dir", str(trial), *flags, "--seeds", "0", *briefly, *unseen)


def timed(run: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a step of each method in a run, and of its first steps beyond that.

    They are told by each student's two checkpoints, one at half of the steps, one at the end.
    """
    step_seconds, first_seconds = {}, {}
    for folder in sorted(run.glob("*-seed*/checkpoints")):
        late, early = (torch.load(path, "cpu", weights_only=True) for path in Checkpoints(folder).paths())
        done = [content["distiller"]["steps"]["train"] for content in (early, late)]
        name = folder.parent.name.rpartition("-seed")[0]
        step_seconds[name] = (late["seconds"] - early["seconds"]) / (done[1] - done[0])
        first_seconds[name] = max(0.0, early["seconds"] - done[0] * step_seconds[name])
    return step_seconds, first_seconds


def _fastadv(*arguments: str) -> None:
    if status := fastadv(["train", *arguments]):
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TRAININGS)
    parser.add_argument("deadline", type=float)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--timed-steps", type=int, default=60, help="steps whose time is taken, after as many others")
    asked, flags = parser.parse_known_args()
    train(
        TRAININGS[asked.name], asked.runs / asked.name, asked.deadline, asked.out, asked.seeds, asked.timed_steps, flags
    )


if __name__ == "__main__":
    main()
