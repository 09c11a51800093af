"""rkd_loss."""

from __future__ import annotations

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling


def _embedded(draw: Draw, size: Size) -> Tensors:
    samples, features = size
    return {"student": draw.normal(size, 2.0), "teacher": draw.normal((samples, features + 3), 0.1)}


def _relational(name: str, **weights: float) -> Case:
    call = calling("rkd_loss", "student", "teacher", **weights)
    return Case(name=name, kind="rkd", sizes="relations", make=_embedded, call=call, differentiable=("student",))


CASES = (
    _relational("rkd_loss"),
    _relational("rkd_loss-distances", distance_weight=2.0, angle_weight=0.0),
    _relational("rkd_loss-angles", distance_weight=0.0, angle_weight=-3.0),
)
