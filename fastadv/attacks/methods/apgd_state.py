"""What the rows of Auto-PGD remember from one step to the next, for linf and l2, and for l1."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.loop.ascent import Best, choose
from fastadv.ops.ball import projector
from fastadv.ops.step import pgd_stepper

# The share of the gradient's step in an iteration; the rest repeats the last movement.
_ALPHA = 0.75

# A row is sparser where it has moved fewer than this share of the coordinates it had moved at the last checkpoint.
_SPARSER = 0.95
_SMALLEST_STEP = 0.1


class Climber(abc.ABC):
    """Steps of its own size for each row, the best point so far, and at checkpoints a return of some rows to it.

    Args:
        start: the first iterates [rows, ...].
        sizes: the first step sizes [rows].
        periods: for each iteration, see :func:`fastadv.attacks.methods.apgd_checkpoints.periods`.
    """

    def __init__(self, start: Tensor, sizes: Tensor, periods: list[Tensor | None]) -> None:
        self.best = Best(start)
        self._best_grad = torch.zeros_like(start)
        self._sizes = sizes
        self._periods = periods
        self._made = 0

    def watch(self, x: Tensor, value: Tensor, grad: Tensor) -> None:
        """Take in the values and gradients at the iterates ``x``."""
        self._best_grad = choose(value > self.best.value, grad, self._best_grad)
        self.best.offer(x, value)

    def step(self, x: Tensor, grad: Tensor) -> Tensor:
        """The next iterates."""
        period = self._periods[self._made]
        if period is not None:
            returns = self._check(period)
            x, grad = choose(returns, self.best.x, x), choose(returns, self._best_grad, grad)
        self._made += 1
        return self._moved(x, grad)

    @abc.abstractmethod
    def _check(self, period: Tensor) -> Tensor:
        """Change the step sizes as the rule at a checkpoint says; the rows that return to their best point."""

    @abc.abstractmethod
    def _moved(self, x: Tensor, grad: Tensor) -> Tensor:
        """The step itself."""


class Halving(Climber):
    """Momentum, and step sizes that halve, as :func:`fastadv.attacks.apgd` has it for linf and l2.

    Args:
        start, sizes, periods: see :class:`Climber`.
        centre: clean images [rows, ...].
        rho: the share of rising steps that keeps the step size.
        ball: keywords of :func:`fastadv.project`.
    """

    def __init__(
        self,
        start: Tensor,
        sizes: Tensor,
        periods: list[Tensor | None],
        centre: Tensor,
        rho: float,
        ball: dict[str, Any],
    ) -> None:
        super().__init__(start, sizes, periods)
        self._rho = rho
        self._step = pgd_stepper(centre, step_size=0.0, **ball)
        self._project = projector(centre, **ball)
        self._before: Tensor | None = None  # x_{k-1}
        self._value: Tensor | None = None  # f(x_{k-1})
        self._rises = torch.zeros(start.shape[0], dtype=torch.int64, device=start.device)
        # At the last checkpoint: the best value then, and whether the row halved.
        self._checked: Tensor | None = None
        self._halved = torch.zeros(start.shape[0], dtype=torch.bool, device=start.device)

    def watch(self, x: Tensor, value: Tensor, grad: Tensor) -> None:
        super().watch(x, value, grad)
        if self._value is None:
            self._checked = self.best.value
        else:
            self._rises = self._rises + (value > self._value)
        self._value = value

    def _check(self, period: Tensor) -> Tensor:
        due = period > 0
        seldom = self._rises < self._rho * period
        stuck = (self.best.value == self._checked) & ~self._halved
        halves = due & (seldom | stuck)
        self._sizes = torch.where(halves, self._sizes / 2, self._sizes)
        self._halved = torch.where(due, halves, self._halved)
        self._checked = torch.where(due, self.best.value, self._checked)  # type: ignore[arg-type]
        self._rises = torch.where(due, 0, self._rises)
        return halves

    def _moved(self, x: Tensor, grad: Tensor) -> Tensor:
        moved = self._step(x, grad, self._sizes)
        if self._before is not None:
            moved = self._project(x + _ALPHA * (moved - x) + (1 - _ALPHA) * (x - self._before))
        self._before = x
        return moved


class Sparsening(Climber):
    """Steps in the largest coordinates of the gradient, as many as the best point suggests: for l1.

    Args:
        start, sizes, periods, centre, ball: see :class:`Halving`.
    """

    def __init__(
        self, start: Tensor, sizes: Tensor, periods: list[Tensor | None], centre: Tensor, ball: dict[str, Any]
    ) -> None:
        super().__init__(start, sizes, periods)
        self._centre = centre
        self._first_sizes = sizes
        self._step: Callable[..., Tensor] = pgd_stepper(centre, step_size=0.0, l1_fraction=1.0, **ball)
        elements = start[0:1].numel()
        # How many coordinates the best point had moved at the last checkpoint, and how many a step moves.
        self._support = torch.full([start.shape[0]], elements, device=start.device)
        self._kept = torch.full([start.shape[0]], max(-(-elements // 5), 1), device=start.device)

    def _check(self, period: Tensor) -> Tensor:
        due = period > 0
        support = (self.best.x != self._centre).flatten(1).sum(1)
        sparser = due & (support < _SPARSER * self._support)
        shorter = torch.maximum(self._sizes / 1.5, _SMALLEST_STEP * self._first_sizes)
        self._sizes = torch.where(due, torch.where(sparser, self._first_sizes, shorter), self._sizes)
        self._kept = torch.where(due, ((2 * support + 2) // 3).clamp(min=1), self._kept)
        self._support = torch.where(due, support, self._support)
        return sparser

    def _moved(self, x: Tensor, grad: Tensor) -> Tensor:
        return self._step(x, largest(grad, self._kept), self._sizes)


def largest(grad: Tensor, count: Tensor) -> Tensor:
    """``grad`` [rows, ...] with zeros wherever it is smaller than the ``count``-th largest magnitude [rows] of its row.

    A NaN counts as zero.
    """
    if grad.numel() == 0:
        return grad
    magnitude = grad.abs().nan_to_num(nan=0.0, posinf=torch.inf).flatten(1)
    least = magnitude.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    return torch.where((magnitude >= least).view(grad.shape), grad, 0.0)
