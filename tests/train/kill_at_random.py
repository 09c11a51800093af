"""Kills a short training with SIGKILL once in each part of it, resumes each, and prints what became of it as JSON.

usage: kill_at_random.py FOLDER TIMES

Each training is a fork of this process, which has done one itself: with one thread, it has no threads to lose, and
nothing is left to import.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from fastadv.distill import TALD
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import Dataset, subset
from fastadv.train.loop.experiment import build_classifier
from fastadv.train.loop.trainer import Trainer

FLAGS = {"epochs": "8", "batch_size": "20", "tensorboard": False, "log_steps": "2", "checkpoint_steps": "4"}
FLAGS.update(eval_epochs="4", checkpoint_epochs="8", eval_steps="1", eval_samples="20", ema="0.9")


def train(digits: Dataset, folder: Path) -> None:
    config = resolve(flags=FLAGS)
    Trainer(
        model=build_classifier(config.student, config, digits, seed=0),
        method=TALD(steps=1, particles=2, eps=0.1),
        teacher=build_classifier(config.teacher, config, digits, seed=1).eval().requires_grad_(False),
        train=subset(digits.train, 70, seed=0),
        test=digits.test,
        config=config,
        seed=0,
        folder=folder,
        label="test",
    ).fit()


def forked(digits: Dataset, folder: Path, seconds: float | None) -> int:
    """The wait status of a training in `folder`, killed after so many seconds."""
    child = os.fork()
    if not child:
        status = 1
        try:
            sys.stdout = open(folder.with_suffix(".out"), "a")  # noqa: SIM115
            train(digits, folder)
            sys.stdout.flush()
            status = 0
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def traces(folder: Path) -> dict[str, object]:
    weights = torch.load(folder / "weights.pt", weights_only=True)
    return {
        "weights": [tensor.double().sum().item() for tensor in weights.values()],
        "bytes": hash(b"".join(tensor.numpy().tobytes() for tensor in weights.values())),
        "metrics": (folder / "metrics.jsonl").read_text(),
    }


def main(folder: Path, times: int) -> None:
    torch.set_num_threads(1)
    digits = datasets.load("digits")
    with contextlib.redirect_stdout(sys.stderr):
        train(digits, folder / "whole")
    expected = traces(folder / "whole")
    began = time.monotonic()
    assert forked(digits, folder / "again", None) == 0
    duration = time.monotonic() - began
    rng = random.Random(time.time_ns())
    outcomes = []
    for number in range(times):
        # One in each part of the training: of few moments chance may put nearly all before the first checkpoint.
        own, seconds = folder / f"killed-{number}", duration * (number + rng.random()) / times
        while forked(digits, own, seconds) != signal.SIGKILL:
            # It was done before it was killed: another one, sooner.
            own, seconds = own.with_name(own.name + "x"), seconds * 0.7
        finished = (own / "result.json").exists()
        resumed = forked(digits, own, None)
        outcomes.append(
            {
                "killed_after": seconds,
                "finished": finished,
                "resumed": resumed,
                "continued": own.with_suffix(".out").read_text(),
                "same": traces(own) == expected,
            }
        )
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
