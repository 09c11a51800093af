"""Auto-PGD's checkpoints, and what it keeps of each row between steps: ApgdState, StepHalving and L1Sparsity."""

from __future__ import annotations

import abc
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from fastadv.attacks.loop.ascent import Best, Evaluation
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.rows import choose
from fastadv.ops.ball import projector
from fastadv.ops.step import pgd_stepper

# The share of the gradient's step in an iteration; the rest repeats the last movement.
_ALPHA = 0.75

# A row is sparser where it has moved fewer than this share of the coordinates it had moved at the last checkpoint.
_SPARSER = 0.95
_SMALLEST_STEP = 0.1


def checkpoints(steps: int) -> list[int]:
    """Return the iterations w_j below ``steps`` at which the step size may halve, ascending, without w_0 = 0."""
    # In hundredths, in which the recursion is exact.
    found, p, gap = {0}, 22, 22
    while p < 100:
        found.add(-(-p * steps // 100))
        gap = max(gap - 3, 6)
        p += gap
    return sorted(found - {0, steps})


def sparsity_checkpoints(steps: int) -> list[int]:
    """Return the same for l1: every 4 % of ``steps``, rounded down, at least 1."""
    every = max(4 * steps // 100, 1)
    return list(range(every, steps, every))


def periods(marks: Callable[[int], list[int]], steps: int | Tensor, x: Tensor) -> list[Tensor | None]:
    """Return for each iteration the steps [N] since the last of ``marks``, known without asking a device.

    0 stands for a sample without a checkpoint here, None for an iteration where no sample has one.
    """
    if isinstance(steps, int):
        ends = {end: end - start for start, end in pairwise([0, *marks(steps)])}
        return [torch.full([x.shape[0]], ends[k], device=x.device) if k in ends else None for k in range(steps)]
    table = torch.zeros(max(steps.tolist(), default=0), x.shape[0], dtype=torch.int64)
    for sample, own in enumerate(steps.tolist()):
        for start, end in pairwise([0, *marks(own)]):
            table[end, sample] = end - start
    used = [any(row) for row in table.tolist()]
    return [row if some else None for row, some in zip(table.to(x.device, non_blocking=True), used, strict=True)]


class ApgdState(abc.ABC):
    """Steps of its own size for each row, the highest point so far, and at checkpoints a return of some rows to it.

    Attributes:
        highest: the points of the highest values, from which the rules go on.
        found: the points to be returned, the same but where others have reached the goal.

    Args:
        start: the first iterates [rows, ...].
        sizes: the first step sizes [rows].
        periods: for each iteration the steps since the last checkpoint, see :func:`periods`.
    """

    def __init__(self, start: Tensor, sizes: Tensor, periods: list[Tensor | None]) -> None:
        self.found, self.highest = Best(start), Best(start)
        self._highest_grad = torch.zeros_like(start)
        self._sizes = sizes
        self._periods = periods
        self._made = 0

    def watch(self, x: Tensor, seen: Evaluation) -> None:
        """Take in the evaluation of the iterates ``x``."""
        self.found.watch(x, seen)
        higher = self.highest.offer(x, seen.value)
        self._highest_grad = choose(higher, seen.grad, self._highest_grad)

    def step(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return the next iterates."""
        period = self._periods[self._made]
        if period is not None:
            returns = self._check(period)
            x, grad = choose(returns, self.highest.x, x), choose(returns, self._highest_grad, grad)
        self._made += 1
        return self._moved(x, grad)

    @abc.abstractmethod
    def _check(self, period: Tensor) -> Tensor:
        """Change the step sizes by the rule; return the mask [rows] of those that go back to their best point."""

    @abc.abstractmethod
    def _moved(self, x: Tensor, grad: Tensor) -> Tensor:
        """Make the step itself."""


class StepHalving(ApgdState):
    """Momentum, and step sizes that halve, as :func:`fastadv.attacks.apgd` has it for linf and l2.

    Args:
        start, sizes, periods: see :class:`ApgdState`.
        centre: clean images [rows, ...].
        ball: the ball around them.
        rho: the share of rising steps that keeps the step size.
    """

    def __init__(
        self,
        start: Tensor,
        sizes: Tensor,
        periods: list[Tensor | None],
        centre: Tensor,
        ball: Ball,
        rho: float,
    ) -> None:
        super().__init__(start, sizes, periods)
        self._rho = rho
        self._step = pgd_stepper(centre, step_size=0.0, **ball.projection)
        self._project = projector(centre, **ball.projection)
        self._before: Tensor | None = None  # x_{k-1}
        self._value: Tensor | None = None  # f(x_{k-1})
        self._rises = torch.zeros(start.shape[0], dtype=torch.int64, device=start.device)
        # At the last checkpoint: the best value then, and whether the row halved.
        self._checked: Tensor | None = None
        self._halved = torch.zeros(start.shape[0], dtype=torch.bool, device=start.device)

    def watch(self, x: Tensor, seen: Evaluation) -> None:
        super().watch(x, seen)
        if self._value is None:
            self._checked = self.highest.value
        else:
            self._rises = self._rises + (seen.value > self._value)
        self._value = seen.value

    def _check(self, period: Tensor) -> Tensor:
        due = period > 0
        # Conditions 1 and 2 of the paper: the value rose too rarely; neither it nor the step size changed.
        rarely = self._rises < self._rho * period
        unchanged = (self.highest.value == self._checked) & ~self._halved
        halves = due & (rarely | unchanged)
        self._sizes = torch.where(halves, self._sizes / 2, self._sizes)
        self._halved = torch.where(due, halves, self._halved)
        self._checked = torch.where(due, self.highest.value, self._checked)  # type: ignore[arg-type]
        self._rises = torch.where(due, 0, self._rises)
        return halves

    def _moved(self, x: Tensor, grad: Tensor) -> Tensor:
        moved = self._step(x, grad, self._sizes)
        if self._before is not None:
            moved = self._project(x + _ALPHA * (moved - x) + (1 - _ALPHA) * (x - self._before))
        self._before = x
        return moved


class L1Sparsity(ApgdState):
    """Steps in the largest coordinates of the gradient, as many as the best point suggests: for l1.

    Args:
        start, sizes, periods, centre, ball: see :class:`StepHalving`.
    """

    def __init__(self, start: Tensor, sizes: Tensor, periods: list[Tensor | None], centre: Tensor, ball: Ball) -> None:
        super().__init__(start, sizes, periods)
        self._centre = centre
        self._first_sizes = sizes
        self._step: Callable[..., Tensor] = pgd_stepper(centre, step_size=0.0, l1_fraction=1.0, **ball.projection)
        elements = start[0:1].numel()
        # How many coordinates the best point had moved at the last checkpoint, and how many a step moves.
        self._support = torch.full([start.shape[0]], elements, device=start.device)
        self._kept = torch.full([start.shape[0]], max(-(-elements // 5), 1), device=start.device)

    def _check(self, period: Tensor) -> Tensor:
        due = period > 0
        support = (self.highest.x != self._centre).flatten(1).sum(1)
        sparser = due & (support < _SPARSER * self._support)
        shorter = torch.maximum(self._sizes / 1.5, _SMALLEST_STEP * self._first_sizes)
        self._sizes = torch.where(due, torch.where(sparser, self._first_sizes, shorter), self._sizes)
        self._kept = torch.where(due, ((2 * support + 2) // 3).clamp(min=1), self._kept)
        self._support = torch.where(due, support, self._support)
        return sparser

    def _moved(self, x: Tensor, grad: Tensor) -> Tensor:
        return self._step(x, largest(grad, self._kept), self._sizes)


def largest(grad: Tensor, count: Tensor) -> Tensor:
    """Return ``grad`` [rows, ...] with zeros where it is below the ``count``-th [rows] largest magnitude of its row.

    A NaN counts as zero.
    """
    if grad.numel() == 0:
        return grad
    magnitude = grad.abs().nan_to_num(nan=0.0, posinf=torch.inf).flatten(1)
    least = magnitude.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    return torch.where((magnitude >= least).view(grad.shape), grad, 0.0)
