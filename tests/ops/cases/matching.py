"""igdm_loss, loss_matching and activation_boundary_loss."""

from __future__ import annotations

from typing import Any

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling
from tests.ops.cases.draws import Make, labelled, networks, with_margin, with_weight

_RESPONSES = ("student_plus", "student_minus", "teacher_plus", "teacher_minus")


def _responding(draw: Draw, size: Size) -> Tensors:
    plus = networks(draw, size)
    minus = {"student_minus": draw.normal(size), "teacher_minus": draw.normal(size)}
    return {"student_plus": plus["student"], "teacher_plus": plus["teacher"]} | minus


def _activated(draw: Draw, size: Size) -> Tensors:
    # Of the teacher's pre-activations a tenth are exactly zero.
    return {"student": draw.normal(size, 1.5), "teacher": draw.gradient(size)}


def _matching(name: str, *, make: Make, **keywords: Any) -> Case:
    call = calling("loss_matching", "student", "teacher", **keywords)
    return Case(name=name, kind="loss", sizes="logits", make=make, call=call, differentiable=("student", "teacher"))


def _boundary(name: str, *, make: Make, **keywords: Any) -> Case:
    call = calling("activation_boundary_loss", "student", "teacher", **keywords)
    return Case(name=name, kind="loss", sizes="features", make=make, call=call, differentiable=("student",))


CASES = (
    Case(
        name="igdm_loss",
        kind="loss",
        sizes="logits",
        make=with_weight(_responding),
        call=calling("igdm_loss", *_RESPONSES),
        differentiable=_RESPONSES,
    ),
    _matching("loss_matching", make=labelled),
    _matching("loss_matching-sum", make=with_weight(labelled), reduction="sum"),
    _boundary("activation_boundary_loss", make=_activated),
    _boundary("activation_boundary_loss-none", make=with_margin(_activated, 2.0), reduction="none"),
)
