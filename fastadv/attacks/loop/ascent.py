"""The loop that every attack runs, and the best iterate it has seen. Nothing here synchronises with the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import Schedule
from fastadv.attacks.loop.rows import choose

Step = Callable[[Tensor, Tensor], Tensor]


class Evaluation(NamedTuple):
    """An objective at rows of images.

    value: [rows]. grad: of the sum of the values w.r.t. the images, [rows, ...].
    reached: the rows that are where the attack wants them, bool [rows]; None where it is not asked for,
        or not known for the loss.
    log_scale: the logarithm [rows] of the factor that is left out of grad, where it may underflow; None where it is
        not asked for, or there is none.
    """

    value: Tensor
    grad: Tensor
    reached: Tensor | None = None
    log_scale: Tensor | None = None


Watch = Callable[[Tensor, Evaluation], object]


class Differentiable(Protocol):
    """An objective that a loop can climb."""

    def evaluate(self, x: Tensor) -> Evaluation:
        """Return the values at ``x`` [rows, ...] and the gradient of their sum w.r.t. x, detached."""


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
    step to the next; its state for a row that is done is ignored. It may write the next x into the memory of the one it
    is given: pass an ``x`` that nobody else uses, and let ``watch`` clone what it keeps.

    Args:
        watch: called with each x and its evaluation, before its step.
        finished: called after ``watch``; the loop ends where it returns True.
    """
    for made in range(schedule.longest):
        found = objective.evaluate(x)
        if watch is not None:
            watch(x, found)
        if finished is not None and finished():
            break
        moved = step(x if schedule.each is None else x.clone(), found.grad)
        x = moved if schedule.each is None else choose(made < schedule.each, moved, x)
        del found  # not to be held during the next pass through the network
    return x


class Best:
    """The best iterate of each row so far, ``x`` while there is none: success comes first, then the higher value.

    NaN never wins.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.value = torch.full([x.shape[0]], -math.inf, device=x.device)
        self.reached = torch.zeros([x.shape[0]], dtype=torch.bool, device=x.device)

    def offer(self, x: Tensor, value: Tensor, reached: Tensor | None = None) -> Tensor:
        """Take the rows of ``x`` [rows, ...] that are better; return their mask [rows]."""
        better = value > self.value
        if reached is not None:
            better = torch.where(reached == self.reached, better, reached & ~value.isnan())
            self.reached = self.reached | (reached & better)
        self.x = choose(better, x, self.x)
        self.value = torch.where(better, value, self.value)
        return better

    def watch(self, x: Tensor, found: Evaluation) -> None:
        """Offer iterates and their evaluation, as a loop does."""
        self.offer(x, found.value, found.reached)

    def of_copies(self, copies: int) -> Best:
        """Return the best of each sample's ``copies`` rows."""
        rows = (self.value.shape[0] // copies, copies)
        x, value, reached = (each.unflatten(0, rows) for each in (self.x, self.value, self.reached))
        best = Best(x[:, 0])
        for copy in range(copies):
            best.offer(x[:, copy], value[:, copy], reached[:, copy])
        return best
