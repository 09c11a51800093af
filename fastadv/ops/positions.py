"""Logits with more dimensions than [N, C], one distribution a position, and positions that a loss leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.numerics import accumulation_dtype
from fastadv.ops import checks


def over_positions(
    function: Callable[..., Tensor],
    logits: dict[str, Tensor],
    target: Tensor | None = None,
    *,
    class_dim: int | None,
    ignore_index: int | None = None,
    weight: float | Tensor | None,
    reduction: str,
    **settings: Any,
) -> Tensor:
    """Return a loss of rows [M, C], ``function``, of logits whose classes lie along ``class_dim``.

    ``logits`` are by the names of the arguments, all of one shape; every index of their other dimensions is a position,
    of which ``target`` and ``weight`` have one number each. "none" gives that shape, "batchmean" divides by the size of
    the first dimension, "mean" by what that of ``function`` divides by for M rows. Positions whose target is
    ``ignore_index`` have loss and gradient zero, whatever their logits are, and the mean is over the others.
    """
    first_name, first = next(iter(logits.items()))
    dim = _class_dim(class_dim, first_name, first)
    shape = [size for d, size in enumerate(first.shape) if d != dim]
    for name, x in logits.items():
        checks.floating(name, x)
        checks.same(name, x, first_name, first)
    rows = [x.movedim(dim, -1).reshape(math.prod(shape), first.shape[dim]) for x in logits.values()]
    if isinstance(weight, Tensor):
        checks.shape("weight", weight, shape, first)
        weight = weight.reshape(-1)
    elif weight is not None:
        weight = checks.number("weight", weight)
    if target is not None and ignore_index is not None and isinstance(target, Tensor) and target.is_floating_point():
        raise TypeError(f"target must be an int64 tensor of classes with ignore_index, got {target.dtype}")
    if target is not None and not (isinstance(target, Tensor) and target.is_floating_point()):
        checks.int64("target", target, shape, first)
        target = target.reshape(-1)
    elif target is not None:
        checks.same("target", target, first_name, first)
        target = target.movedim(dim, -1).reshape(rows[0].shape)
    divisor: float | Tensor | None = first.shape[0] if reduction == "batchmean" else None
    if target is not None and ignore_index is not None:
        checks.integer_or_none("ignore_index", ignore_index)
        kept = target != ignore_index
        target = torch.where(kept, target, 0)
        rows = [torch.where(kept[:, None], x, 0) for x in rows]
        share = kept.to(accumulation_dtype(first))
        weight = share if weight is None else share * weight
        if reduction == "mean":
            divisor = share.sum()
    arguments = rows if target is None else [*rows, target]
    if divisor is not None:
        return function(*arguments, weight=weight, reduction="sum", **settings) / divisor
    value = function(*arguments, weight=weight, reduction=reduction, **settings)
    return value.reshape(shape) if reduction == "none" else value


def _class_dim(class_dim: int | None, name: str, x: Tensor) -> int:
    """Return the dimension of the classes of ``x``, counted from the front; None is that of [N, C]."""
    checks.floating(name, x)
    class_dim = checks.integer_or_none("class_dim", class_dim)
    if class_dim is None:
        checks.logits(name, x)
        return 1
    dim = class_dim + x.dim() if class_dim < 0 else class_dim
    if not 1 <= dim < x.dim():
        raise ValueError(f"class_dim must be a dimension of {name} behind its first, {list(x.shape)}, got {class_dim}")
    if x.shape[dim] == 0:
        raise ValueError(f"{name} must have classes along class_dim={class_dim}, got {list(x.shape)}")
    return dim
