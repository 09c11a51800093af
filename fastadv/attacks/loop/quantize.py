"""Adversarial images as files hold them: on the grid of 8 bits, k / 255."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.model.values import readable
from fastadv.numerics import per_sample

_LEVELS = 255
# The rounding of a difference of pixels, in levels.
_SLACK = 1e-4


def check_on_grid(x: Tensor, ball: Ball, check: bool | None) -> None:
    """Raise ValueError where images ``x`` or the box of ``ball`` do not lie on the grid."""
    if not readable(x, check) or not x.numel():
        return
    for name, values in (("x", x), *(("bounds", torch.as_tensor(bound)) for bound in ball.bounds or ())):
        levels = values * _LEVELS
        if (levels - levels.round()).abs().max() > _SLACK:
            raise ValueError(f"{name} must lie on the grid k / 255 for quantize=True, as 8 bits divided by 255 do")


def quantized(moved: Tensor, x: Tensor, ball: Ball) -> Tensor:
    """Return points of the grid near ``moved`` [N, ...], in ``ball`` around images ``x`` of the grid, and in the box.

    Each coordinate goes to the level below its distance from x, and then, from the largest remainder on, one further:
    for linf to the nearest level in the ball, for l2 and l1 as long as the ball holds them all. So the radius is spent
    as far as levels allow; rounding all coordinates alone would leave the ball, or for l2 undo a small perturbation.
    """
    offset = (moved - x).double() * _LEVELS
    distance = offset.abs()
    below = (distance + _SLACK).floor()
    remainder = distance - below
    eps = ball.eps
    eps = eps if isinstance(eps, Tensor) and eps.dim() > 1 else per_sample(eps, distance)
    if ball.norm == "linf":
        further = (remainder >= 0.5) & (below + 1 <= eps * _LEVELS + _SLACK)
    else:
        # In units of levels, to the power of the norm, in which these numbers are exact.
        power = 2 if ball.norm == "l2" else 1
        cost = ((below + 1) ** power - below**power).flatten(1)
        order = remainder.flatten(1).argsort(dim=1, descending=True)
        spent = (below**power).flatten(1).sum(1, keepdim=True) + cost.gather(1, order).cumsum(1)
        budget = (eps * _LEVELS) ** power * (1 + 1e-6)
        fits = spent <= (budget.view(-1, 1) if isinstance(budget, Tensor) else budget)
        further = torch.zeros_like(fits).scatter(1, order, fits).view_as(x) & (remainder > _SLACK)
    levels = (x.double() * _LEVELS).round() + offset.sign() * (below + further)
    return (levels / _LEVELS).to(x.dtype)
