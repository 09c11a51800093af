"""project and random_start."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling
from tests.ops.cases.draws import Make, with_eps, with_eps_a_channel, with_mask


def _displaced(draw: Draw, size: Size) -> Tensors:
    x0 = draw.pixels(size)
    return {"x": x0 + draw.normal(size, 0.1), "x0": x0}


def _centred(draw: Draw, size: Size) -> Tensors:
    return {"x0": draw.pixels(size)}


def _identified(draw: Draw, size: Size) -> Tensors:
    sample_ids = torch.arange(size[0]) * 7 + (3 << 32) - 5
    return with_eps(_centred, 0.1)(draw, size) | {"seed": torch.tensor(-(2**40) + 9), "sample_ids": sample_ids}


def _project(name: str, *, kind: str, make: Make = _displaced, **keywords: Any) -> Case:
    call = calling("project", "x", "x0", **keywords)
    return Case(name=name, kind=kind, sizes="images", make=make, call=call, exact=kind == "linf")


def _boxed(draw: Draw, size: Size) -> Tensors:
    """A radius and a lower bound for each pixel, the same in all samples."""
    pixels = (1, *size[1:])
    eps, low = (draw.positive(math.prod(pixels), most).view(pixels) for most in (0.1, 0.2))
    return _displaced(draw, size) | {"eps": eps, "low": low}


def _project_in_boxes(library: Any, t: Tensors) -> Tensor:
    return library.project(t["x"], t["x0"], eps=t["eps"], bounds=(t["low"], 0.9))


def _start(name: str, *, kind: str, make: Make = _centred, **keywords: Any) -> Case:
    call = calling("random_start", "x0", **keywords)
    return Case(name=name, kind=kind, sizes="images", make=make, call=call, exact=kind == "linf")


CASES = (
    _project("project-linf", kind="linf", eps=8 / 255),
    _project("project-linf-sequential", kind="linf", eps=8 / 255, mode="sequential"),
    _project("project-linf-per-sample", kind="linf", make=with_eps(_displaced, 0.1), bounds=(0.1, 0.7)),
    _project("project-linf-per-channel", kind="linf", make=with_eps_a_channel(_displaced, 0.1), mode="sequential"),
    _project("project-linf-masked", kind="linf", make=with_mask(_displaced), eps=8 / 255),
    Case(name="project-linf-boxes", kind="linf", sizes="images", make=_boxed, call=_project_in_boxes, exact=True),
    _project("project-l2-masked", kind="l2", make=with_mask(_displaced), norm="l2", eps=0.5),
    _project("project-l2", kind="l2", norm="l2", eps=0.5),
    _project("project-l2-sequential", kind="l2", norm="l2", eps=0.5, mode="sequential"),
    _project("project-l2-per-sample", kind="l2", make=with_eps(_displaced, 2.0), norm="l2", bounds=None),
    _project("project-l1", kind="l1", norm="l1", eps=2.0),
    _project("project-l1-sequential", kind="l1", norm="l1", eps=2.0, mode="sequential"),
    _project("project-l1-per-sample", kind="l1", make=with_eps(_displaced, 9.0), norm="l1", bounds=(0.1, math.inf)),
    _start("random_start-linf", kind="linf", eps=8 / 255),
    _start("random_start-linf-identified", kind="linf", make=_identified, bounds=None),
    _start("random_start-linf-per-channel", kind="linf", make=with_eps_a_channel(_centred, 0.1), seed=7),
    _start("random_start-l2-masked", kind="noise", make=with_mask(_centred), norm="l2", eps=0.5),
    _start("random_start-l2", kind="noise", norm="l2", eps=0.5, seed=5),
    _start("random_start-l2-identified", kind="noise", make=_identified, norm="l2", bounds=None),
    _start("random_start-l1", kind="noise", norm="l1", eps=2.0, seed=5),
    _start("random_start-l1-identified", kind="noise", make=_identified, norm="l1", bounds=None),
)
