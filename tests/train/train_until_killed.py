"""Runs `fastadv train` in a process that kills itself (SIGKILL) at a chosen moment.

usage: train_until_killed.py step|checkpoint LABEL NUMBER [arguments of fastadv train]
step: after that step of the network with that label. checkpoint: once its checkpoint of that step is written, before it
is renamed.
"""

import os
import signal
import sys
from typing import Any

from fastadv.train.cli import main
from fastadv.train.loop.trainer import Trainer
from fastadv.train.runtime import files


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after_step(label: str, step: int) -> None:
    train_step = Trainer._train_step

    def train_step_then_die(self: Trainer, *arguments: Any) -> None:
        train_step(self, *arguments)
        if self.label == label and self.step == step:
            kill_myself()

    Trainer._train_step = train_step_then_die  # type: ignore[method-assign]


def kill_inside_checkpoint(label: str, step: int) -> None:
    save = Trainer._save

    def save_and_die(self: Trainer, *arguments: Any) -> None:
        if self.label == label and self.step == step:
            files.os.replace = lambda *paths: kill_myself()  # type: ignore[attr-defined]
        save(self, *arguments)

    Trainer._save = save_and_die  # type: ignore[method-assign]


if __name__ == "__main__":
    moment, label, number, *arguments = sys.argv[1:]
    {"step": kill_after_step, "checkpoint": kill_inside_checkpoint}[moment](label, int(number))
    raise SystemExit(main(["train", *arguments]))
