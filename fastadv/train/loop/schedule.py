"""The learning rate of a step, from its number alone: nothing to save, nothing to restore."""

import math
from bisect import bisect_right
from collections.abc import Sequence

from fastadv.train.config.train_config import Config

# The share of a one-cycle training in which the rate rises.
RISE = 0.3


def step_lr(epoch: int, *, lr: float, milestones: Sequence[int], decay: float) -> float:
    """Return lr decay^(number of milestones at or before `epoch`), epochs counted from 0."""
    return lr * decay ** bisect_right(milestones, epoch)


def cosine_lr(progress: float, *, lr: float) -> float:
    """Return lr (1 + cos(pi progress)) / 2, progress in [0, 1)."""
    return lr * (1 + math.cos(math.pi * progress)) / 2


def one_cycle_lr(progress: float, *, lr: float) -> float:
    """Return the rate that rises in a cosine from lr / 25 to lr at 0.3 of the progress and falls in one towards 0.

    These are the numbers of torch.optim.lr_scheduler.OneCycleLR, whose momentum is not cycled here.
    """
    if progress < RISE:
        return lr - cosine_lr(progress / RISE, lr=lr - lr / 25)
    return cosine_lr((progress - RISE) / (1 - RISE), lr=lr)


def learning_rate(peak: float, config: Config, *, epoch: int, progress: float) -> float:
    """Return the rate of a step by config.schedule. peak: the highest rate. progress: share of the steps done."""
    if config.schedule == "cosine":
        return cosine_lr(progress, lr=peak)
    if config.schedule == "one-cycle":
        return one_cycle_lr(progress, lr=peak)
    return step_lr(epoch, lr=peak, milestones=config.milestones, decay=config.lr_decay)
