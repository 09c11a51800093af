"""Ascent from a start in the ball by one rule of stepping, what pgd and mi_fgsm have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fastadv.attacks.loop.arguments import count, master, step_count, step_length
from fastadv.attacks.loop.ascent import Best, Step, ascend
from fastadv.attacks.loop.copies import repeat
from fastadv.attacks.loop.objective import Loss, Objective
from fastadv.attacks.loop.starts import check_noise, clean_rows, random_rows, start_radius
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.ops import checks


def projected_ascent(
    stepper: Callable[..., Step],
    model: Network | Sequence[Network],
    x: Tensor,
    y: Tensor | None,
    *,
    eps: float | Tensor,
    step_size: float | Tensor | None,
    steps: int | Tensor,
    norm: str,
    loss: Loss,
    reference: Tensor | None,
    targeted: bool,
    random_start: bool,
    restarts: int,
    best: bool,
    bounds: tuple[float, float] | None,
    seed: int | Tensor | None,
    sample_ids: Tensor | None,
    mode: str = "exact",
    start_eps: float | Tensor | None = None,
) -> Tensor:
    """:func:`fastadv.attacks.pgd` with the step that ``stepper(centre, eps=, step_size=, norm=, bounds=)`` makes.

    ``mode`` is that of the projection of the images where the start is not random.
    """
    networks = Networks(model)
    x = master(x)
    schedule = step_count(steps, x)
    step_size = step_length(x, eps, step_size, schedule)
    count("restarts", restarts, 1)
    for name, value in (("targeted", targeted), ("random_start", random_start), ("best", best)):
        checks.flag(name, value)
    radius = start_radius(x, eps, start_eps)
    check_noise(x, seed, sample_ids)
    step = stepper(
        repeat(x, restarts), eps=repeat(eps, restarts), step_size=repeat(step_size, restarts), norm=norm, bounds=bounds
    )
    with no_trace(networks.members):
        if random_start:
            start = random_rows(x, restarts, eps=radius, norm=norm, bounds=bounds, seed=seed, sample_ids=sample_ids)
        else:
            start = clean_rows(x, restarts, eps=eps, norm=norm, bounds=bounds, mode=mode)
        objective = Objective(networks, x, y, loss=loss, reference=reference, targeted=targeted, copies=restarts)
        found = Best(start)
        last = ascend(objective, start, step, schedule.of_copies(restarts), watch=found.offer if best else None)
        if not best and restarts == 1:
            return last
        found.offer(last, objective.value(last))
        return found.of_copies(restarts).x
