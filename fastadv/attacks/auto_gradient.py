"""Projected ascent that chooses its own step sizes: apgd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.arguments import count, master, step_count
from fastadv.attacks.copies import repeat
from fastadv.attacks.guard import no_trace
from fastadv.attacks.loop import Best, ascend, choose
from fastadv.attacks.networks import Network, Networks
from fastadv.attacks.objective import Loss, Objective
from fastadv.attacks.starts import clean_rows, random_rows
from fastadv.ops import checks
from fastadv.ops.ball import projector
from fastadv.ops.step import pgd_stepper

# The share of the gradient's step in an iteration; the rest repeats the last movement.
_ALPHA = 0.75


def apgd(
    model: Network | Sequence[Network],
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float | Tensor,
    step_size: float | Tensor | None = None,
    steps: int | Tensor = 10,
    norm: str = "linf",
    loss: Loss = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
    random_start: bool = True,
    restarts: int = 1,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    rho: float = 0.75,
) -> Tensor:
    """Auto-PGD: projected ascent with momentum that halves its step and goes back to its best point by itself.

        ``z       = pgd_step(x_k, grad f(x_k))`` with the row's step size, f the loss of the model,
        ``x_{k+1} = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))``, and ``x_1 = z``.

    At the checkpoints ``w_j = ceil(p_j steps)``, ``p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03,
    0.06)``, a row halves its step size and goes on from the best point it has seen, with the gradient there, where

        f rose in fewer than ``rho (w_j - w_{j-1})`` of the steps since the last checkpoint, or

        it did not halve at the last checkpoint and its best loss has not changed since.

    The best point of all steps, start and end included, and of all restarts is returned. Each row keeps its step size
    and all else on the device. Nothing of the caller's changes, see :func:`pgd`.

    The rule is the paper's. The iterate that gives way to the best point is x_{w_j} as in the authors' code, so that a
    step costs one evaluation. That code rounds its checkpoints otherwise, halves at exactly ``rho`` too, starts on the
    sphere, and returns a misclassified point where it saw one, which need not be the one of the highest loss.

    Args:
        step_size: length of the first steps in the norm, a float or [N]; None is ``2 eps``.
        norm: "linf" or "l2".
        loss: "ce" or "dlr" as published, or any other of :func:`pgd`; "dlr" with ``targeted=True`` is the targeted DLR,
            y the class to be reached.
        rho: the share of rising steps that keeps the step size, in (0, 1].
        model, x, y, eps, steps, reference, targeted, random_start, restarts, bounds, mode, seed, sample_ids: as for
            :func:`pgd`.

    Returns and raises as :func:`pgd`, and ValueError for norm "l1", for which AutoAttack has another algorithm, and for
    rho outside of (0, 1].

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, algorithm 1.
    """
    networks = Networks(model)
    x = master(x)
    schedule = step_count(steps, x)
    checks.radius("eps", eps, x)
    step_size = 2 * eps if step_size is None else step_size
    checks.step("step_size", step_size, x)
    checks.fraction("rho", rho)
    count("restarts", restarts, 1)
    if norm == "l1":
        raise ValueError("norm must be 'linf' or 'l2', got 'l1': Auto-PGD for l1 is another algorithm, not offered")
    ball: dict[str, Any] = {"eps": repeat(eps, restarts), "norm": norm, "bounds": bounds, "mode": mode}
    centre, sizes = repeat(x, restarts), repeat(_each(step_size, x), restarts)
    move, project = pgd_stepper(centre, step_size=0.0, **ball), projector(centre, **ball)
    periods = [None if period is None else repeat(period, restarts) for period in _periods(steps, x)]
    with no_trace(networks.members):
        if random_start:
            start = random_rows(x, restarts, eps=eps, norm=norm, bounds=bounds, seed=seed, sample_ids=sample_ids)
        else:
            start = clean_rows(x, restarts, eps=eps, norm=norm, bounds=bounds, mode=mode)
        objective = Objective(networks, x, y, loss=loss, reference=reference, targeted=targeted, copies=restarts)
        climber = _Climber(start, sizes, periods, rho, move, project)
        last = ascend(objective, start, climber.step, schedule.of_copies(restarts), watch=climber.watch)
        climber.best.offer(last, objective.value(last))
        return climber.best.of_copies(restarts).x


def checkpoints(steps: int) -> list[int]:
    """The iterations w_j below ``steps`` at which the step size may halve, ascending, without w_0 = 0."""
    # In hundredths, in which the recursion is exact.
    found, p, gap = {0}, 22, 22
    while p < 100:
        found.add(-(-p * steps // 100))
        gap = max(gap - 3, 6)
        p += gap
    return sorted(found - {0, steps})


def _each(step_size: float | Tensor, x: Tensor) -> Tensor:
    """``step_size`` as [N], one for each sample of ``x``."""
    if isinstance(step_size, Tensor):
        return step_size.detach().to(x.dtype).contiguous()
    return torch.full([x.shape[0]], step_size, dtype=x.dtype, device=x.device)


def _periods(steps: int | Tensor, x: Tensor) -> list[Tensor | None]:
    """For each iteration the steps [N] since the last checkpoint, 0 for a sample that has none here; None if none has.

    The host knows where to look without asking the device.
    """
    if isinstance(steps, int):
        ends = {end: end - start for start, end in pairwise([0, *checkpoints(steps)])}
        return [torch.full([x.shape[0]], ends[k], device=x.device) if k in ends else None for k in range(steps)]
    table = torch.zeros(max(steps.tolist(), default=0), x.shape[0], dtype=torch.int64)
    for sample, own in enumerate(steps.tolist()):
        for start, end in pairwise([0, *checkpoints(own)]):
            table[end, sample] = end - start
    used = [any(row) for row in table.tolist()]
    return [row if some else None for row, some in zip(table.to(x.device, non_blocking=True), used, strict=True)]


class _Climber:
    """What each row remembers from one step of Auto-PGD to the next.

    Args:
        start: the first iterates [rows, ...].
        sizes: the first step sizes [rows].
        periods: for each iteration, see :func:`_periods`.
        rho: the share of rising steps that keeps the step size.
        move: (x, grad, sizes) -> z.
        project: onto ball and box.
    """

    def __init__(
        self,
        start: Tensor,
        sizes: Tensor,
        periods: list[Tensor | None],
        rho: float,
        move: Callable[[Tensor, Tensor, Tensor], Tensor],
        project: Callable[[Tensor], Tensor],
    ) -> None:
        self.best = Best(start)
        self._best_grad = torch.zeros_like(start)
        self._sizes = sizes
        self._periods = periods
        self._rho = rho
        self._move = move
        self._project = project
        self._made = 0
        self._before: Tensor | None = None  # x_{k-1}
        self._value: Tensor | None = None  # f(x_{k-1})
        self._rises = torch.zeros(start.shape[0], dtype=torch.int64, device=start.device)
        # At the last checkpoint: the best value then, and whether the row halved.
        self._checked: Tensor | None = None
        self._halved = torch.zeros(start.shape[0], dtype=torch.bool, device=start.device)

    def watch(self, x: Tensor, value: Tensor, grad: Tensor) -> None:
        """Take in the values and gradients at the iterates ``x``."""
        self._best_grad = choose(value > self.best.value, grad, self._best_grad)
        self.best.offer(x, value)
        if self._value is None:
            self._checked = self.best.value
        else:
            self._rises = self._rises + (value > self._value)
        self._value = value

    def step(self, x: Tensor, grad: Tensor) -> Tensor:
        """The next iterates."""
        period = self._periods[self._made]
        if period is not None:
            halves = self._check(period)
            x, grad = choose(halves, self.best.x, x), choose(halves, self._best_grad, grad)
        moved = self._move(x, grad, self._sizes)
        if self._before is not None:
            moved = self._project(x + _ALPHA * (moved - x) + (1 - _ALPHA) * (x - self._before))
        self._before = x
        self._made += 1
        return moved

    def _check(self, period: Tensor) -> Tensor:
        """Halve the step sizes that the rule at a checkpoint halves; their rows."""
        due = period > 0
        seldom = self._rises < self._rho * period
        stuck = (self.best.value == self._checked) & ~self._halved
        halves = due & (seldom | stuck)
        self._sizes = torch.where(halves, self._sizes / 2, self._sizes)
        self._halved = torch.where(due, halves, self._halved)
        self._checked = torch.where(due, self.best.value, self._checked)  # type: ignore[arg-type]
        self._rises = torch.where(due, 0, self._rises)
        return halves
