"""The steps of a training and the learning rate of each, from the step alone: nothing to restore."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from fastadv.train.config.train_config import Config
from fastadv.train.loop.optimizer_step import OptimizerStep


def step_lr(epoch: int, *, lr: float, milestones: Sequence[int], decay: float) -> float:
    """Return lr decay^(number of milestones at or before `epoch`), epochs counted from 0."""
    return lr * decay ** bisect_right(milestones, epoch)


def cosine_lr(progress: float, *, lr: float) -> float:
    """Return lr (1 + cos(pi progress)) / 2, progress in [0, 1)."""
    return lr * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(peak: float, config: Config, *, epoch: int, progress: float) -> float:
    """Return the rate of a step by config.schedule. peak: the first rate. progress: share of the steps done."""
    if config.schedule == "cosine":
        return cosine_lr(progress, lr=peak)
    return step_lr(epoch, lr=peak, milestones=config.milestones, decay=config.lr_decay)


@dataclass
class Stage:
    """The warm-up or the training proper: `total` steps of `optimizer_step`, of which `done` are done.

    kind: what its lines of metrics are called.
    """

    kind: str
    optimizer_step: OptimizerStep
    total: int
    steps_per_epoch: int
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    @property
    def progress(self) -> float:
        """The share of its steps that is done."""
        return self.done / self.total

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0; after the last step of an epoch, the number of those that ended."""
        return self.done // self.steps_per_epoch

    def ended(self, *, epochs: int) -> bool:
        """Return whether the newest step was the last of all, or of each `epochs`-th epoch."""
        return self.finished or (self.between_epochs and self.epoch % epochs == 0)

    @property
    def between_epochs(self) -> bool:
        return self.done % self.steps_per_epoch == 0

    def rest_of_epoch(self) -> range:
        """Return the places in the epoch of the steps that are left of it."""
        first = self.done % self.steps_per_epoch
        return range(first, min(self.steps_per_epoch, first + self.total - self.done))
