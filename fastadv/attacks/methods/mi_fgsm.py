"""Projected ascent along a momentum of gradients: mi_fgsm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastadv.attacks.configured import Attack
from fastadv.attacks.loop.ascent import Step
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, Loss
from fastadv.attacks.loop.projected_ascent import Tries, projected_ascent
from fastadv.attacks.model.networks import Network
from fastadv.near_misses import answers_near_misses
from fastadv.ops import checks
from fastadv.ops.pixelwise import Bounds
from fastadv.ops.step import momentum_stepper


@answers_near_misses
def mi_fgsm(
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
    random_start: bool = False,
    restarts: int = 1,
    best: bool = False,
    bounds: Bounds = (0.0, 1.0),
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    l1_fraction: float = 0.05,
    decay: float = 1.0,
    mask: Tensor | None = None,
    eot: int = 1,
    quantize: bool = False,
    check: bool | None = None,
) -> Tensor:
    """Projected ascent along a momentum: ``x, m <- momentum_step(x, grad loss(model(x)), m)``, ``steps`` times.

        ``m <- decay m + grad / mean |grad|``,  ``x <- project(x + step_size u)``

    with u the steepest direction along m: its signs for linf, ``m / |m|_2`` for l2, the signs of its largest entries
    for l1. Equal gradients then make the steps of :func:`pgd`. Each restart has a momentum of its own. The paper starts
    from x and steps by ``eps / steps``.

    The gradient of "dlr" turns where two logits change places, and a momentum that forgets nothing goes on: on a small
    network a decay of 1 left 3 to 7 points more of the accuracy than pgd with as many steps, one of 0.5 at most 1.4.

    Args:
        step_size: length of a step in the norm, a float or [N]; None is ``2.5 eps / steps``.
        decay: what is kept of the momentum at each step; 0 is pgd.
        model, x, y, eps, steps, norm, loss, reference, targeted, random_start, restarts, best, bounds, seed,
            sample_ids, l1_fraction, mask, eot, quantize, check: as for :func:`pgd`. Projections are exact.

    Returns and raises as :func:`pgd`, and ValueError where decay is NaN.

    Source: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.
    """

    def along_momentum(centre: Tensor, ball: Ball, step_size: float | Tensor) -> Step:
        rule: dict[str, Any] = {"step_size": step_size, "decay": decay, "l1_fraction": l1_fraction}
        return momentum_stepper(centre, eps=ball.eps, norm=ball.norm, bounds=ball.bounds, **rule)

    return projected_ascent(
        along_momentum,
        model,
        x,
        Goal(y, loss, reference, targeted, eot),
        Ball(eps, norm, bounds, mask=mask),
        Noise(seed, sample_ids),
        Tries(random_start, restarts, best, quantize=quantize),
        step_size=step_size,
        steps=steps,
        check=check,
    )


class MIFGSM(Attack, function=mi_fgsm, own_checks={"decay": checks.number}):
    """:func:`fastadv.attacks.mi_fgsm`, configured once: ``MIFGSM(eps=8 / 255, decay=0.9)(model, x, y)``."""
