"""Ascent from a start in the ball by one rule of stepping: the body of pgd, fgsm and mi_fgsm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from fastadv.attacks.loop.arguments import as_float32, count, step_count, step_length
from fastadv.attacks.loop.ascent import Best, Step, ascend
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, Objective
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.ops import checks

# Called with clean rows [rows, ...], the ball around them and the length of a step, a float or [rows].
Stepper = Callable[[Tensor, Ball, float | Tensor], Step]


class Tries(NamedTuple):
    """The points that an attack begins at, and which of the iterates it returns; see :func:`fastadv.attacks.pgd`."""

    random_start: bool
    restarts: int = 1
    best: bool = False
    start_eps: float | Tensor | None = None

    def check(self) -> None:
        count("restarts", self.restarts, 1)
        checks.flag("random_start", self.random_start)
        checks.flag("best", self.best)


def projected_ascent(
    stepper: Stepper,
    model: Network | Sequence[Network],
    x: Tensor,
    goal: Goal,
    ball: Ball,
    noise: Noise,
    tries: Tries,
    *,
    step_size: float | Tensor | None,
    steps: int | Tensor,
) -> Tensor:
    """Return adversarial images as :func:`fastadv.attacks.pgd` does, by the steps that ``stepper`` makes."""
    networks = Networks(model)
    x = as_float32(x)
    schedule = step_count(steps, x)
    step_size = step_length(x, ball.eps, step_size, schedule)
    tries.check()
    noise.check(x)
    copies = tries.restarts
    around_start = ball.around_start(x, tries.start_eps)
    step = stepper(repeat_rows(x, copies), ball.of_copies(copies), repeat_rows(step_size, copies))
    with no_trace(networks.members):
        start = around_start.random_rows(x, copies, noise) if tries.random_start else ball.clean_rows(x, copies)
        objective = Objective(networks, x, goal, copies)
        schedule = schedule.of_copies(copies)
        if not tries.best and copies == 1:
            return ascend(objective, start, step, schedule)
        found = Best(start.clone())
        last = ascend(objective, start, step, schedule, watch=found.offer if tries.best else None)
        found.offer(last, objective.value(last))
        return found.of_copies(copies).x
