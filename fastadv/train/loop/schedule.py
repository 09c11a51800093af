"""The learning rate of a step, from its number alone: nothing to save, nothing to restore."""

import math
from bisect import bisect_right

from fastadv.train.config.train_config import Config


def learning_rate(config: Config, *, epoch: int, progress: float) -> float:
    """Return the rate of a step by config.schedule: lr times a factor.

    "cosine": (1 + cos(pi progress)) / 2, progress the share of the steps that are done, in [0, 1).
    "step": lr_decay^(number of milestones at or before `epoch`), epochs counted from 0.
    """
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * config.lr_decay ** bisect_right(config.milestones, epoch)
