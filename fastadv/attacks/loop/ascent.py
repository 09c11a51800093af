"""The loop that every attack runs, and the best iterate it has seen. Nothing here waits for a device by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import Schedule
from fastadv.attacks.loop.rows import choose

Step = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[Tensor, Tensor, Tensor], object]


class Differentiable(Protocol):
    """An objective that a loop can climb."""

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values [rows] at ``x`` [rows, ...] and the gradient of their sum w.r.t. x, detached."""


def ascend(
    objective: Differentiable,
    x: Tensor,
    step: Step,
    schedule: Schedule,
    *,
    watch: Watch | None = None,
    finished: Callable[[], bool] | None = None,
) -> Tensor:
    """Repeat ``x = step(x, gradient)`` as often as ``schedule`` says, and return the last ``x`` [rows, ...].

    A row that has made all steps of its own stays where it is. ``step`` may be an object that carries state from one
    step to the next; what it keeps of a row that stays is of no account. It may write the next x into the memory of the
    one it is given: ``x`` must be memory of the loop's own, and what ``watch`` keeps of it a copy.

    Args:
        watch: called with each (x, values, gradient), before its step.
        finished: asked after that; the loop ends where it returns True.
    """
    for made in range(schedule.longest):
        value, grad = objective.value_and_grad(x)
        if watch is not None:
            watch(x, value, grad)
        if finished is not None and finished():
            break
        moved = step(x if schedule.each is None else x.clone(), grad)
        x = moved if schedule.each is None else choose(made < schedule.each, moved, x)
        del value, grad  # not to be held during the next pass through the network
    return x


class Best:
    """For each row the iterate of the highest value offered so far, ``x`` while there is none; a NaN never wins."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.value = torch.full([x.shape[0]], -math.inf, device=x.device)

    def offer(self, x: Tensor, value: Tensor, grad: Tensor | None = None) -> None:
        """Take the rows of ``x`` [rows, ...] whose ``value`` [rows] is higher; ``grad`` is not looked at."""
        better = value > self.value
        self.x = choose(better, x, self.x)
        self.value = torch.where(better, value, self.value)

    def of_copies(self, copies: int) -> Best:
        """Return the best of each sample's ``copies`` rows."""
        rows = (self.value.shape[0] // copies, copies)
        x, value = self.x.unflatten(0, rows), self.value.unflatten(0, rows)
        best = Best(x[:, 0])
        for copy in range(copies):
            best.offer(x[:, copy], value[:, copy])
        return best
