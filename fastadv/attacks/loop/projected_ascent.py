"""Ascent from a start in the ball with one step rule: the body of pgd, fgsm and mi_fgsm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from fastadv.attacks.loop.arguments import count, images_looked_at, step_count, step_length
from fastadv.attacks.loop.ascent import Best, Step, ascend
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Averaged, Goal, Objective, objective_of
from fastadv.attacks.loop.quantize import check_on_grid, quantized
from fastadv.attacks.loop.rows import choose, repeat_numbers, repeat_rows
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.ops import checks

# The radius of a random start, as a fraction of the ball's, for a loss that has no gradient at x itself.
_NEAR = 0.1

# Called with clean rows [rows, ...], the ball around them and the length of a step, a float or [rows].
Stepper = Callable[[Tensor, Ball, float | Tensor], Step]


class Tries(NamedTuple):
    """The points that an attack begins at, and which of the iterates it returns; see :func:`fastadv.attacks.pgd`."""

    random_start: bool
    restarts: int = 1
    best: bool = False
    start_eps: float | Tensor | None = None
    quantize: bool = False

    def check(self, x: Tensor, ball: Ball, check: bool | None) -> None:
        """Raise TypeError or ValueError where these settings do not fit images ``x`` [N, ...] and ``ball``."""
        count("restarts", self.restarts, 1)
        checks.flag("random_start", self.random_start)
        checks.flag("best", self.best)
        ball.check(x)
        if self.start_eps is not None and not self.random_start:
            raise ValueError("start_eps must be None for random_start=False, which draws nothing from that ball")
        ball.around_start(x, self.start_eps)
        if checks.flag("quantize", self.quantize):
            check_on_grid(x, ball, check)

    def start(
        self, x: Tensor, goal: Goal, objective: Objective | Averaged, ball: Ball, noise: Noise, *, inside: bool = False
    ) -> Tensor:
        """Return the rows [N * restarts, ...] at which the attack on images ``x`` [N, ...] begins.

        objective: of the goal. inside: x is known to lie in the box; then the rows may be x itself.
        """
        if self.random_start:
            return ball.around_start(x, self.start_eps).random_rows(x, self.restarts, noise)
        near = ball._replace(eps=_NEAR * ball.eps)
        if goal.is_flat_at_x:
            return near.random_rows(x, self.restarts, noise)
        # No gradient can be recorded for a tensor of inference mode.
        as_it_is = inside and not x.is_inference()
        rows = repeat_rows(x, self.restarts) if as_it_is else ball.clean_rows(x, self.restarts)
        if not goal.may_be_flat_at_x:
            return rows
        return choose(objective.flat_rows(rows), near.random_rows(x, self.restarts, noise), rows)

    def finished(self, found: Tensor, x: Tensor, ball: Ball) -> Tensor:
        """Return the images that were ``found``, quantised where that was asked for."""
        return quantized(found, x, ball) if self.quantize else found


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
    check: bool | None,
) -> Tensor:
    """Return adversarial images as :func:`fastadv.attacks.pgd` does, with the steps of ``stepper``."""
    networks = Networks(model, check)
    x, inside = images_looked_at(x, ball.bounds, check)
    schedule = step_count(steps, x)
    step_size = step_length(x, ball.eps, step_size, schedule)
    tries.check(x, ball, check)
    noise.check(x)
    copies = tries.restarts
    around_rows = ball.of_copies(x, copies)
    step = stepper(repeat_rows(x, copies), around_rows, repeat_numbers(step_size, x, copies))
    with no_trace(networks.members):
        choosing = tries.best or copies > 1
        objective = objective_of(networks, x, goal, copies, judged=choosing, mask=around_rows.mask)
        schedule = schedule.of_copies(copies)
        if not choosing:
            # Nobody else may hold the start, whose memory the loop is to give away.
            found = ascend(objective, tries.start(x, goal, objective, ball, noise, inside=inside), step, schedule)
            return tries.finished(found.clone() if found is x else found, x, ball)
        start = tries.start(x, goal, objective, ball, noise)
        best = Best(start.clone())
        last = ascend(objective, start, step, schedule, watch=best.watch if tries.best else None)
        best.offer(last, *objective.judge(last))
        return tries.finished(best.of_copies(copies).x, x, ball)
