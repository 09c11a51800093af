"""svgd_step."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tests.ops.cases.case import Case, Draw, Size, Tensors
from tests.ops.cases.draws import Make, with_eps_and_step_size


def _particles(draw: Draw, size: Size) -> Tensors:
    x0 = draw.pixels((size[0], *size[2:]))
    return {"x": x0[:, None] + draw.normal(size, 0.02), "score": draw.normal(size), "x0": x0}


def _stein(name: str, *, make: Make = _particles, **keywords: Any) -> Case:
    def call(library: Any, t: Tensors, **changes: Any) -> Tensor:
        each = {name: t[name] for name in ("eps", "step_size") if name in t}
        return library.svgd_step(t["x"], t["score"], t["x0"], **(keywords | each | changes))

    def phi(library: Any, t: Tensors) -> Tensor:
        return call(library, t, eps=math.inf, step_size=1.0, bounds=None, update="raw", norm="linf") - t["x"]

    signed = keywords.get("update", "sign") == "sign"
    return Case(name=name, kind="svgd", sizes="particles", make=make, call=call, phi=phi if signed else None)


CASES = (
    _stein("svgd_step-sign", eps=8 / 255, step_size=2 / 255),
    _stein("svgd_step-sign-rms", make=with_eps_and_step_size(_particles, 0.5), norm="l2", score_scale="rms"),
    _stein("svgd_step-l2", norm="l2", eps=0.5, step_size=0.2, update="l2", score_scale="rms"),
    _stein("svgd_step-l1", norm="l1", eps=2.0, step_size=0.2, update="raw"),
    _stein("svgd_step-raw", eps=0.3, step_size=0.1, update="raw", bandwidth=0.2, score_scale=0.7),
)
