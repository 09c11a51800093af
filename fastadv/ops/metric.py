"""Losses on distances between features: triplet_margin_loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastadv.ops import checks, loss
from fastadv.ops.dispatch import define
from fastadv.ops.layout import widest
from fastadv.reference import metric as reference

Triplet = tuple[Tensor, Tensor, Tensor]


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Tensor = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """:func:`torch.nn.functional.triplet_margin_loss`: ``max(0, margin + d(anchor, positive) - d(anchor, negative))``.

    ``d(x, y) = |x - y + eps|_p`` over the last dimension, eps being added to each difference. With ``swap`` the second
    distance is the smaller of ``d(anchor, negative)`` and ``d(positive, negative)``. Gradients are PyTorch's at ties
    too: the hinge passes them where it is exactly zero, equal distances share them, and so do the largest differences
    of p = inf; a norm of zero has none.

    Args:
        anchor: features [N, D], float64, float32, bfloat16 or float16; or [..., D], or [D] for one triplet.
            Differentiable.
        positive: features that broadcast with the anchor's, of as many dimensions; differentiable.
        negative: features that broadcast with the anchor's, of as many dimensions; differentiable.
        margin: a positive float, or one a triplet: [N], in general the shape of the unreduced loss. No gradient is
            offered for it.
        p: the order of the norm, from 0 (which counts what differs, and has no gradient) to inf.
        eps: what is added to each difference.
        swap: measure from the positive where that is nearer to the negative.
        reduction: "none" gives one value a triplet, [N] or [...]; "sum"; "mean" and "batchmean" are sum / N.

    Returns:
        The loss, float64 for float64 features, else float32.

    Raises:
        TypeError: an input is no floating-point tensor, a number is no number, swap is no bool.
        ValueError: shapes do not broadcast, or broadcast the dimension of one distance only; devices differ; margin is
            not positive; p is negative; unknown reduction.

    Source: Balntas, Riba, Ponsa, Mikolajczyk, "Learning local feature descriptors with triplets and shallow
    convolutional neural networks", BMVC 2016. For distillation the anchor is the teacher's output, positive and
    negative the student's for the same sample and for one of another class: Oki, Abe, Miyao, Kurita, "Triplet loss for
    knowledge distillation", IJCNN 2020 (margin 5).
    """
    rows, batch = _rows(anchor, positive, negative, swap)
    scale, reduce = loss.reduction_scale(reduction, rows[0])
    arguments, optional = _arguments(rows, batch, margin, p, eps, swap)
    value = loss.evaluate(_triplet_margin_loss, rows, arguments, (scale, reduce), optional)
    return value if reduce or len(batch) == 1 else value.reshape(batch)


def triplet_margin_loss_value_and_grad(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float | Tensor = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`triplet_margin_loss` without autograd: ``(loss [N], gradients w.r.t. anchor, positive and negative)``.

    The gradients are those of the summed loss, in the shapes of the inputs, float64 for float64 features, else float32.
    Raises as :func:`triplet_margin_loss`.
    """
    rows, batch = _rows(anchor, positive, negative, swap)
    arguments, optional = _arguments(rows, batch, margin, p, eps, swap)
    value, *grads = loss.value_and_grad(_triplet_margin_loss, rows, arguments, (True, True, True), optional)
    if rows[0] is anchor:
        return value, grads[0], grads[1], grads[2]
    full = [*batch, rows[0].shape[1]]
    grad_anchor, grad_positive, grad_negative = (
        grad.view(full).sum_to_size(x.shape) for grad, x in zip(grads, (anchor, positive, negative), strict=True)
    )
    return value.view(batch), grad_anchor, grad_positive, grad_negative


def _rows(anchor: Tensor, positive: Tensor, negative: Tensor, swap: bool) -> tuple[Triplet, tuple[int, ...]]:
    """The features broadcast to rows [N, D], and the shape of the unreduced loss."""
    checks.floating("anchor", anchor)
    checks.floating("positive", positive)
    checks.floating("negative", negative)
    triplet = (anchor, positive, negative)
    shape: tuple[int, ...] = anchor.shape
    if not shape or shape[-1] == 0:
        raise ValueError(f"anchor must have shape [..., D] with D > 0, got {list(shape)}")
    if positive.shape == negative.shape == shape:
        if positive.device != anchor.device or negative.device != anchor.device:
            _require_one_device(*triplet)
        if len(shape) == 2:
            return triplet, shape[:1]
    else:
        shape = _broadcast(triplet, swap)
        _require_one_device(*triplet)
    size = (math.prod(shape[:-1]), shape[-1])
    a, b, c = (x.expand(shape).reshape(size) for x in triplet)
    return (a, b, c), shape[:-1]


def _require_one_device(anchor: Tensor, positive: Tensor, negative: Tensor) -> None:
    for name, x in (("positive", positive), ("negative", negative)):
        if x.device != anchor.device:
            raise ValueError(f"{name} must be on the device of anchor, {anchor.device}, got {x.device}")


def _broadcast(triplet: Triplet, swap: bool) -> tuple[int, ...]:
    """The shape that all features broadcast to, as PyTorch would broadcast each pair of them."""
    shapes = [list(x.shape) for x in triplet]
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            "anchor, positive and negative must have as many dimensions, got {}, {} and {}".format(*shapes)
        )
    try:
        shape = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError("anchor, positive and negative must broadcast, got {}, {} and {}".format(*shapes)) from None
    a, b, c = (size[-1] for size in shapes)
    # Two rows of one number each are at another distance than the same two repeated D times.
    if min(max(a, b), max(a, c), max(b, c) if swap else shape[-1]) < shape[-1]:
        raise ValueError(
            "anchor, positive and negative must have one last dimension, got {}, {} and {}".format(*shapes)
        )
    return tuple(shape)


def _arguments(
    rows: Triplet, batch: tuple[int, ...], margin: float | Tensor, p: float, eps: float, swap: bool
) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """All but the rows and the reduction, and margins one a triplet."""
    numbers = checks.not_negative("p", p), checks.number("eps", eps)
    number, margins = _margin(margin, rows, batch)
    return (number, *numbers, checks.flag("swap", swap)), () if margins is None else (margins,)


def _margin(margin: float | Tensor, rows: Triplet, batch: tuple[int, ...]) -> tuple[float, Tensor | None]:
    if not isinstance(margin, Tensor):
        return checks.positive("margin", margin), None
    if margin.shape != batch:
        raise ValueError(f"margin must be a float or have shape {list(batch)}, got {list(margin.shape)}")
    return 0.0, checks.per_sample("margin", margin.reshape(-1), widest(*rows), positive=True)


def _triplet_margin_loss_reference(anchor, positive, negative, margin, p, eps, swap, *rest):
    *before, margin_n, weight = rest
    margin = margin if margin_n is None else margin_n
    value, *grads = reference.triplet_margin_loss_value_and_grad(
        anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap
    )
    return loss.finish(value, grads, *before, weight)


_triplet_margin_loss = define(
    "triplet_margin_loss",
    family="metric",
    fake=lambda a, p, n, margin, order, eps, swap, scale, *rest: loss.fake((a, p, n), *rest),
    reference=_triplet_margin_loss_reference,
)
