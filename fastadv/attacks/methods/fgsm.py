"""The fast gradient method, one step of pgd: fgsm."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from fastadv.attacks.configured import Attack
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, Loss
from fastadv.attacks.loop.projected_ascent import Tries, projected_ascent
from fastadv.attacks.methods.pgd import steepest_step
from fastadv.attacks.model.networks import Network
from fastadv.near_misses import answers_near_misses
from fastadv.ops.pixelwise import Bounds


@answers_near_misses
def fgsm(
    model: Network | Sequence[Network],
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float | Tensor,
    step_size: float | Tensor | None = None,
    norm: str = "linf",
    loss: Loss = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
    random_start: bool = False,
    restarts: int = 1,
    best: bool = False,
    bounds: Bounds = (0.0, 1.0),
    mode: str = "exact",
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    l1_fraction: float = 0.05,
    mask: Tensor | None = None,
    eot: int = 1,
    quantize: bool = False,
    check: bool | None = None,
) -> Tensor:
    """The fast gradient method: for linf ``clamp(x + eps sign(grad loss(model(x))))``, a single step of :func:`pgd`.

    Args:
        step_size: length of the step in the norm, a float or [N]; None is ``eps``.
        random_start: start from :func:`fastadv.random_start`. With ``step_size=1.25 * eps`` this is the attack of fast
            adversarial training (Wong, Rice, Kolter, "Fast is better than free", ICLR 2020).
        model, x, y, eps, norm, loss, reference, targeted, restarts, best, bounds, mode, seed, sample_ids, l1_fraction,
            mask, eot, quantize, check: as for :func:`pgd`.

    Returns and raises as :func:`pgd`.

    Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015.
    """
    return projected_ascent(
        partial(steepest_step, l1_fraction),
        model,
        x,
        Goal(y, loss, reference, targeted, eot),
        Ball(eps, norm, bounds, mode, mask),
        Noise(seed, sample_ids),
        Tries(random_start, restarts, best, quantize=quantize),
        step_size=eps if step_size is None else step_size,
        steps=1,
        check=check,
    )


class FGSM(Attack, function=fgsm):
    """:func:`fastadv.attacks.fgsm`, configured once: ``FGSM(eps=8 / 255)(model, x, y)``."""
