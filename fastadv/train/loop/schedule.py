"""The learning rate as a function of the step: nothing to save, nothing to restore."""

import math
from bisect import bisect_right
from collections.abc import Sequence


def step_lr(epoch: int, *, lr: float, milestones: Sequence[int], decay: float) -> float:
    """lr decay^(number of milestones at or before `epoch`), epochs counted from 0."""
    return lr * decay ** bisect_right(milestones, epoch)


def cosine_lr(progress: float, *, lr: float) -> float:
    """lr (1 + cos(pi progress)) / 2, progress in [0, 1)."""
    return lr * (1 + math.cos(math.pi * progress)) / 2
