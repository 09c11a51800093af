"""The loss that an attack ascends, one value a sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fastadv.reference._common import accumulate
from fastadv.reference.divergence import classes, kl_distill, kl_distill_value_and_grad, target_and_others


def attack_loss(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> Tensor:
    """See :func:`fastadv.attack_loss`."""
    sign = -1 if targeted else 1
    if kind == "kl":
        assert reference is not None
        return sign * kl_distill(logits, reference, reduction="none")
    assert target is not None
    if kind in ("ce", "log_odds"):
        valid, index = classes(logits, target)
        odds = -target_and_others(logits, index)[0]
        return sign * torch.where(valid, _softplus(odds) if kind == "ce" else odds, torch.nan)
    if kind == "cw":
        return sign * _gap(logits, target).loss
    return _gap(logits, target, ratio=True, truth=reference if targeted else None).loss


def attack_loss_value_and_grad(
    logits: Tensor,
    target: Tensor | None = None,
    *,
    kind: str = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss [N] and its gradient w.r.t. the logits [N, C]."""
    sign = -1 if targeted else 1
    if kind == "kl":
        assert reference is not None
        loss, grad, _ = kl_distill_value_and_grad(logits, reference)
        return sign * loss, sign * grad
    assert target is not None
    if kind in ("ce", "log_odds"):
        loss, grad = _odds_value_and_grad(logits, target, cross_entropy=kind == "ce")
        return sign * loss, sign * grad
    if kind == "cw":
        loss, grad = _gap_value_and_grad(_gap(logits, target), logits)
        return sign * loss, sign * grad
    return _gap_value_and_grad(_gap(logits, target, ratio=True, truth=reference if targeted else None), logits)


def _odds_value_and_grad(logits: Tensor, target: Tensor, *, cross_entropy: bool) -> tuple[Tensor, Tensor]:
    """Log-odds v of the other classes against the target [N], or ``log(1 + exp v)``, and the gradient [N, C]."""
    valid, index = classes(logits, target)
    odds, log_q = target_and_others(logits, index)
    loss, slope = -odds, torch.ones_like(odds)
    if cross_entropy:
        loss = _softplus(-odds)
        # The sigmoid of v, to the smallest numbers.
        slope = torch.where(odds > 0, (-odds - loss).exp(), odds.neg().sigmoid())
    hit = one_hot(index, logits.shape[1]).bool()
    grad = slope[:, None] * torch.where(hit, -1.0, log_q.exp())
    loss = torch.where(valid, loss, torch.nan)
    return loss, torch.where(loss.isnan()[:, None], torch.nan, grad)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp x), to the smallest numbers."""
    return torch.logaddexp(x, torch.zeros_like(x))


class _Gap(NamedTuple):
    """``loss = (z[rival] - z[own]) / spread``; the spread is ``z[top] - mean(z[floor])``, or 1 where there is none."""

    loss: Tensor
    rival: Tensor
    own: Tensor
    spread: Tensor | None
    top: Tensor
    floor: Tensor


def _gap(logits: Tensor, target: Tensor, *, ratio: bool = False, truth: Tensor | None = None) -> _Gap:
    """Margin of the strongest other class over the target; given a ``truth``, of the target over that.

    A ``ratio`` is taken to the spread of the largest logits. A target or truth that is no class makes the loss NaN.
    """
    wide = accumulate(logits)
    # Of equal logits the lower class ranks first, NaN before all.
    ranked, order = wide.sort(dim=1, descending=True, stable=True)
    valid = _are_classes(target, logits)
    own = torch.where(valid, target, 0)
    rival = torch.where(order[:, 0] == own, order[:, 1], order[:, 0])
    floor = slice(2, 3)
    if truth is not None:
        valid &= _are_classes(truth, logits)
        own, rival = torch.where(valid, truth, 0), own
        floor = slice(2, 4)
    loss = (wide.gather(1, rival[:, None]) - wide.gather(1, own[:, None])).squeeze(1)
    spread = None
    if ratio:
        # Differences first: large logits added up would lose what they differ by.
        spread = (ranked[:, :1] - ranked[:, floor]).mean(1) + 1e-12
        loss = loss / spread
    return _Gap(
        torch.where(valid, loss, torch.nan), rival[:, None], own[:, None], spread, order[:, :1], order[:, floor]
    )


def _are_classes(index: Tensor, logits: Tensor) -> Tensor:
    return (index >= 0) & (index < logits.shape[1])


def _gap_value_and_grad(gap: _Gap, logits: Tensor) -> tuple[Tensor, Tensor]:
    grad = torch.zeros_like(accumulate(logits))
    grad_gap = torch.ones_like(gap.loss) if gap.spread is None else 1 / gap.spread
    grad.scatter_add_(1, gap.rival, grad_gap[:, None])
    grad.scatter_add_(1, gap.own, -grad_gap[:, None])
    if gap.spread is not None:
        grad_spread = (-gap.loss / gap.spread)[:, None]
        grad.scatter_add_(1, gap.top, grad_spread)
        grad.scatter_add_(1, gap.floor, (-grad_spread / gap.floor.shape[1]).expand_as(gap.floor))
    # Of an undefined loss every derivative is undefined.
    return gap.loss, torch.where(gap.loss.isnan()[:, None], torch.nan, grad)
