"""square_propose."""

from __future__ import annotations

from typing import Any

import torch

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling
from tests.ops.cases.draws import Make, with_eps


def _near(draw: Draw, size: Size) -> Tensors:
    x0 = draw.pixels(size)
    query = torch.tensor([0, 11, 51, 201, 4001, 9000]).repeat(-(-size[0] // 6))[: size[0]]
    return {"x": (x0 + draw.normal(size, 0.05)).clamp(0, 1), "x0": x0, "query": query}


def _identified(draw: Draw, size: Size) -> Tensors:
    sample_ids = torch.arange(size[0]) * 7 + (3 << 32) - 5
    return with_eps(_near, 0.1)(draw, size) | {"seed": torch.tensor(-(2**40) + 9), "sample_ids": sample_ids}


def _proposal(name: str, *, kind: str, make: Make = _near, **keywords: Any) -> Case:
    call = calling("square_propose", "x", "x0", "query", **keywords)
    return Case(name=name, kind=kind, sizes="pictures", make=make, call=call)


CASES = (
    _proposal("square_propose-linf", kind="linf", eps=8 / 255),
    _proposal("square_propose-linf-identified", kind="linf", make=_identified, bounds=None),
    _proposal("square_propose-l2", kind="l2", norm="l2", eps=0.5, seed=3),
    _proposal("square_propose-l2-identified", kind="l2", make=_identified, norm="l2", bounds=(0.1, 0.8)),
    _proposal("square_propose-l1", kind="l1", norm="l1", eps=5.0, seed=3),
    _proposal("square_propose-l1-identified", kind="l1", make=_identified, norm="l1"),
)
