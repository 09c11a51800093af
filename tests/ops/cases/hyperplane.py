"""project_hyperplane."""

from __future__ import annotations

import math
from typing import Any

import torch

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling

# Shares of the way to the far corner, on either side; beyond 1 the plane does not meet the box.
SHARES = (0.4, -0.02, 1.3, 0.0, 0.9)


def _planes(draw: Draw, size: Size) -> Tensors:
    x, normal = draw.pixels(size), draw.gradient(size)
    point, w = x.double().flatten(1), normal.double().flatten(1)
    # What w . x can fall by in the unit box, and rise by.
    down = (w.abs() * torch.where(w > 0, point, 1 - point)).sum(1)
    up = (w.abs() * torch.where(w > 0, 1 - point, point)).sum(1)
    share = torch.tensor(SHARES, dtype=torch.float64).repeat(-(-size[0] // len(SHARES)))[: size[0]]
    offset = (w * point).sum(1) - share * torch.where(share > 0, down, up)
    return {"x": x, "normal": normal, "offset": offset.to(draw.positive(0, 1.0).dtype)}


def _plane(name: str, **keywords: Any) -> Case:
    call = calling("project_hyperplane", "x", "normal", "offset", **keywords)
    return Case(name=name, kind="plane", sizes="images", make=_planes, call=call)


CASES = (
    _plane("project_hyperplane-linf"),
    _plane("project_hyperplane-l2", norm="l2"),
    _plane("project_hyperplane-l1", norm="l1"),
    _plane("project_hyperplane-linf-without-a-box", bounds=None),
    _plane("project_hyperplane-l2-one-bound", norm="l2", bounds=(0.0, math.inf)),
    _plane("project_hyperplane-l1-one-bound", norm="l1", bounds=(-math.inf, 1.0)),
    _plane("project_hyperplane-l2-narrow", norm="l2", bounds=(0.3, 0.6)),
)
