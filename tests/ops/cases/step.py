"""pgd_step, in place too, momentum_step and bss_step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling, dense
from tests.ops.cases.draws import Make, stepping, with_eps_a_channel, with_eps_and_step_size, with_mask


def _gathering(draw: Draw, size: Size) -> Tensors:
    return stepping(draw, size) | {"momentum": draw.gradient(size)}


def _approaching(draw: Draw, size: Size) -> Tensors:
    near = {"x": draw.pixels(size), "grad": draw.gradient(size)}
    return near | {"gap": draw.positive(size[0], 4.0), "active": torch.arange(size[0]) % 3 != 1}


def _approaching_in_steps(draw: Draw, size: Size) -> Tensors:
    return _approaching(draw, size) | {"step_size": draw.positive(size[0], 1.0) - 1 / 3}


def _step(name: str, *, kind: str, make: Make = stepping, **keywords: Any) -> Case:
    call = calling("pgd_step", "x", "grad", "x0", **keywords)
    return Case(name=name, kind=kind, sizes="images", make=make, call=call, exact=kind == "linf")


def _step_in_place(name: str, *, kind: str, make: Make = stepping, **keywords: Any) -> Case:
    call = calling("pgd_step_", "x", "grad", "x0", **keywords)

    def on_a_copy(library: Any, tensors: Tensors) -> Tensor:
        return call(library, tensors | {"x": dense(tensors["x"].clone())})

    return Case(name=name, kind=kind, sizes="images", make=make, call=on_a_copy, exact=kind == "linf")


def _momentum(name: str, *, kind: str, make: Make = _gathering, **keywords: Any) -> tuple[Case, Case]:
    """The iterates and the momentum, each a case."""
    call = calling("momentum_step", "x", "grad", "momentum", "x0", **keywords)

    def moved(library: Any, tensors: Tensors) -> Tensor:
        return call(library, tensors)[0]

    def gathered(library: Any, tensors: Tensors) -> Tensor:
        return call(library, tensors)[1]

    phi = gathered if kind == "linf" else None
    return (
        Case(name=name, kind=kind, sizes="images", make=make, call=moved, phi=phi),
        Case(name=f"{name}-momentum", kind="momentum", sizes="images", make=make, call=gathered),
    )


def _boundary(name: str, *, make: Make, **keywords: Any) -> Case:
    call = calling("bss_step", "x", "grad", "gap", "active", **keywords)
    return Case(name=name, kind="l2", sizes="images", make=make, call=call)


def _each(most: float, make: Make = stepping) -> Make:
    return with_eps_and_step_size(make, most)


CASES = (
    _step("pgd_step-linf", kind="linf", eps=8 / 255, step_size=2 / 255),
    _step("pgd_step-linf-sequential", kind="linf", eps=8 / 255, step_size=2 / 255, mode="sequential"),
    _step("pgd_step-linf-per-sample", kind="linf", make=_each(0.1), bounds=None),
    _step("pgd_step-linf-per-channel", kind="linf", make=with_eps_a_channel(stepping, 0.1), step_size=0.03),
    _step("pgd_step-linf-masked", kind="linf", make=with_mask(stepping), eps=8 / 255, step_size=2 / 255),
    _step("pgd_step-l2-masked", kind="l2", make=with_mask(stepping), norm="l2", eps=0.5, step_size=1.0),
    _step("pgd_step-l1-masked", kind="l1", make=with_mask(stepping), norm="l1", eps=2.0, step_size=1.0),
    _step("pgd_step-l2", kind="l2", norm="l2", eps=0.5, step_size=1.0),
    _step("pgd_step-l2-per-sample", kind="l2", make=_each(1.0), norm="l2"),
    _step("pgd_step-l1", kind="l1", norm="l1", eps=2.0, step_size=1.0),
    _step("pgd_step-l1-per-sample", kind="l1", make=_each(4.0), norm="l1", l1_fraction=0.95, mode="sequential"),
    _step_in_place("pgd_step_-linf", kind="linf", eps=8 / 255, step_size=-2 / 255),
    _step_in_place("pgd_step_-linf-masked", kind="linf", make=with_mask(stepping), eps=8 / 255, step_size=2 / 255),
    _step_in_place("pgd_step_-l2", kind="l2", make=_each(1.0), norm="l2"),
    _step_in_place("pgd_step_-l1", kind="l1", norm="l1", eps=2.0, step_size=-1.0, l1_fraction=0.3),
    *_momentum("momentum_step-linf", kind="linf", eps=8 / 255, step_size=2 / 255),
    *_momentum("momentum_step-linf-per-sample", kind="linf", make=_each(0.1, _gathering), decay=0.7, bounds=None),
    *_momentum(
        "momentum_step-linf-per-channel",
        kind="linf",
        make=with_mask(with_eps_a_channel(_gathering, 0.1)),
        step_size=0.02,
    ),
    *_momentum("momentum_step-l2", kind="l2", norm="l2", eps=0.5, step_size=1.0),
    *_momentum("momentum_step-l1", kind="l1", norm="l1", eps=2.0, step_size=1.0, l1_fraction=0.2),
    *_momentum("momentum_step-l2-per-sample", kind="l2", make=_each(1.0, _gathering), norm="l2", decay=-0.5),
    _boundary("bss_step", make=_approaching),
    _boundary("bss_step-per-sample", make=_approaching_in_steps, bounds=(0.1, 0.7)),
)
