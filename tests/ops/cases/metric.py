"""triplet_margin_loss."""

from __future__ import annotations

import math
from typing import Any

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling
from tests.ops.cases.draws import Make, with_margin

_TRIPLET = ("anchor", "positive", "negative")


def _triplets(p: float) -> Make:
    """Features whose distances in the p-norm are of order 1, whatever their number: a long sum would hide its error."""

    def make(draw: Draw, size: Size) -> Tensors:
        scale = size[1] ** (-1 / p)
        spreads = (1.0, 1.2, 1.3)
        return {name: draw.normal(size, scale * spread) for name, spread in zip(_TRIPLET, spreads, strict=True)}

    return make


def _triplet(name: str, *, most: float | None = None, p: float = 2.0, **keywords: Any) -> Case:
    """``most``: the largest of the margins, one a triplet; without it the margin is 1."""
    make = _triplets(p) if most is None else with_margin(_triplets(p), most)
    call = calling("triplet_margin_loss", *_TRIPLET, p=p, **keywords)
    return Case(name=name, kind="metric", sizes="logits", make=make, call=call, differentiable=_TRIPLET)


CASES = (
    _triplet("triplet_margin_loss"),
    _triplet("triplet_margin_loss-none", most=0.2, swap=True, reduction="none"),
    _triplet("triplet_margin_loss-l1", p=1.0, swap=True, reduction="sum"),
    _triplet("triplet_margin_loss-linf", most=0.2, p=math.inf, eps=1e-2, swap=True, reduction="none"),
    _triplet("triplet_margin_loss-l3", most=0.2, p=3.0, eps=1e-4, reduction="none"),
)
