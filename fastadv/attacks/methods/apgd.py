"""Projected ascent that chooses its own step sizes: apgd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fastadv.attacks.configured import Attack, among
from fastadv.attacks.loop.arguments import count, images_looked_at, step_count
from fastadv.attacks.loop.ascent import ascend
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, Loss, objective_of
from fastadv.attacks.loop.projected_ascent import Tries
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.methods.apgd_autoattack import first_misclassified
from fastadv.attacks.methods.apgd_state import (
    ApgdState,
    L1Sparsity,
    StepHalving,
    checkpoints,
    periods,
    sparsity_checkpoints,
)
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.ops import checks
from fastadv.ops.pixelwise import Bounds

# Whether each is the one of the authors' code.
VARIANTS = {"paper": False, "autoattack": True}


@answers_near_misses
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
    bounds: Bounds = (0.0, 1.0),
    mode: str = "exact",
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    rho: float = 0.75,
    variant: str = "paper",
    targets: int | None = None,
    batch_size: int = 250,
    mask: Tensor | None = None,
    eot: int = 1,
    quantize: bool = False,
    check: bool | None = None,
) -> Tensor:
    """Auto-PGD: projected ascent with momentum that halves its step and goes back to its best point by itself.

    For linf and l2:

        ``z       = pgd_step(x_k, grad f(x_k))`` with the row's step size, f the loss of the model,
        ``x_{k+1} = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))``, and ``x_1 = z``.

    At the checkpoints ``w_j = ceil(p_j steps)``, ``p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03,
    0.06)``, a row halves its step size and goes on from the best point it has seen, with the gradient there, where

        f rose in fewer than ``rho (w_j - w_{j-1})`` of the steps since the last checkpoint, or

        it did not halve at the last checkpoint and its best loss has not changed since.

    For l1 there is no momentum, and what adapts is how sparse a step is:

        ``x_{k+1} = pgd_step(x_k, grad f(x_k))`` in the k' largest coordinates of the gradient, first a fifth of them.

    At every 4 % of the steps k' becomes two thirds of the number s of coordinates in which the best point differs from
    the image. Where s fell below 0.95 of what it was at the last checkpoint, the row goes on from the best point with
    the first step size; elsewhere the step size shrinks by 1.5, down to a tenth of the first.

    The best point of all steps, start and end included, and of all restarts is returned: one that reached the goal, and
    of these the one of the highest f, see :func:`pgd`. Each row keeps its step size
    and all else on the device. Nothing of the caller's changes, see :func:`pgd`.

    The rules are the papers'. For linf and l2, the iterate that gives way to the best point is x_{w_j} as in the
    authors' code, so that a step costs one evaluation.

    ``variant="autoattack"`` is that code, as AutoAttack runs it: it starts on the sphere, rounds its checkpoints down,
    halves at exactly ``rho`` too, compares the first loss after a step with zero, and for l1 runs three phases of
    radius 3 eps, 2 eps and eps, of which the last counts. Any misclassified iterate counts; an image leaves with the
    first and is returned with it, one without any as it is. ``restarts``, and ``targets`` of the loss "dlr", follow one
    another, each for the images that still stand; the host waits for the device to learn which.

    Args:
        step_size: length of the first steps in the norm, a float or [N]; None is ``2 eps``, for l1 ``eps`` (of radii
            for each channel or pixel the largest).
        norm: "linf", "l2" or "l1".
        loss: "ce" or "dlr" as published, or any other of :func:`pgd`; "dlr" with ``targeted=True`` is the targeted DLR,
            y the class to be reached.
        rho: the share of rising steps that keeps the step size, in (0, 1]; l1 has no use for it.
        variant: "paper" or "autoattack"; the latter takes the losses "ce" and "dlr", an int for steps, and neither
            step_size, reference, targeted, random_start, mode, mask, eot nor quantize.
        targets: of "autoattack" with loss "dlr", how many classes to aim at in turn, those of rank 2, 3, ... of the
            clean logits, by the targeted DLR; None is the untargeted one.
        batch_size: of "autoattack", images in a pass at most, see :func:`fastadv.attacks.square`.
        model, x, y, eps, steps, reference, targeted, random_start, restarts, bounds, mode, seed, sample_ids, mask, eot,
            quantize, check: as for :func:`pgd`.

    Returns and raises as :func:`pgd`, and ValueError for rho outside of (0, 1].

    Source: Croce, Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, algorithm 1; for l1 the same, "Mind the box: l1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021.
    """
    if checks.choice("variant", variant, VARIANTS):
        others = {
            "step_size": step_size is None,
            "reference": reference is None,
            "targeted": targeted is False,
            "random_start": random_start is True,
            "mode": mode == "exact",
            "mask": mask is None,
            "eot": eot == 1,
            "quantize": quantize is False,
        }
        for name in (name for name, default in others.items() if not default):
            raise ValueError(f'{name} must be left out for variant="autoattack"')
        ball, noise = Ball(eps, norm, bounds), Noise(seed, sample_ids)
        return first_misclassified(model, x, y, ball, noise, loss, steps, restarts, targets, rho, batch_size, check)
    if targets is not None:
        raise ValueError(f'targets must be None but for variant="autoattack", got {targets!r}')
    networks = Networks(model, check)
    x, inside = images_looked_at(x, bounds, check)
    schedule = step_count(steps, x)
    checks.choice("norm", norm, checks.NORMS)
    sparse = norm == "l1"
    if step_size is None:
        step_size = _widest(eps, x) if sparse else 2 * _widest(eps, x)
    checks.step("step_size", step_size, x)
    checks.fraction("rho", rho)
    goal, ball = Goal(y, loss, reference, targeted, eot), Ball(eps, norm, bounds, mode, mask)
    tries, noise = Tries(random_start, restarts, quantize=quantize), Noise(seed, sample_ids)
    tries.check(x, ball, check)
    noise.check(x)
    centre, sizes = repeat_rows(x, restarts), repeat_rows(_each(step_size, x), restarts)
    around_rows = ball.of_copies(x, restarts)
    looks_back = periods(sparsity_checkpoints if sparse else checkpoints, steps, x)
    with no_trace(networks.members):
        objective = objective_of(networks, x, goal, restarts, judged=True, mask=around_rows.mask)
        rule: Callable[..., ApgdState] = L1Sparsity if sparse else partial(StepHalving, rho=rho)
        marks = [repeat_rows(period, restarts) for period in looks_back]
        # Nothing holds the start longer than the loop.
        state = rule(tries.start(x, goal, objective, ball, noise, inside=inside), sizes, marks, centre, around_rows)
        last = ascend(objective, state.found.x, state.step, schedule.of_copies(restarts), watch=state.watch)
        state.found.offer(last, *objective.judge(last))
        return tries.finished(state.found.of_copies(restarts).x, x, ball)


class APGD(
    Attack,
    function=apgd,
    own_checks={
        "rho": checks.fraction,
        "variant": among(VARIANTS),
        "targets": lambda name, value: count(name, value, 1),
        "batch_size": lambda name, value: count(name, value, 1),
    },
):
    """:func:`fastadv.attacks.apgd`, configured once: ``APGD(eps=8 / 255, loss="dlr", steps=100)(model, x, y)``."""


def _widest(eps: float | Tensor, x: Tensor) -> float | Tensor:
    """Return ``eps``, a float or [N]; of one for each channel or pixel of ``x`` [N, ...] the largest of each image."""
    if isinstance(eps, Tensor) and eps.dim() > 1:
        checks.floating("eps", eps)
        checks.broadcasting("eps", eps, x)
        return eps.expand(x.shape).flatten(1).amax(1)
    checks.radius("eps", eps, x)
    return eps


def _each(step_size: float | Tensor, x: Tensor) -> Tensor:
    """Return ``step_size`` as [N], one for each sample of ``x``."""
    if isinstance(step_size, Tensor):
        return step_size.detach().to(x.dtype).expand(x.shape[0]).contiguous()
    return torch.full([x.shape[0]], step_size, dtype=x.dtype, device=x.device)
