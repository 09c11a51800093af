"""mix and its backward pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling, dense


def _mixing(draw: Draw, size: Size) -> Tensors:
    # Any indices: some samples are taken twice, some never.
    permutation = draw.classes(size[0], max(size[0], 1))
    return {"x": draw.pixels(size), "permutation": permutation, "lam": draw.positive(size[0], 1.5)}


def _mixing_alike(draw: Draw, size: Size) -> Tensors:
    drawn = _mixing(draw, size)
    del drawn["lam"]
    return drawn


def _backward(library: Any, t: Tensors) -> Tensor:
    # Called as it is, so in a dense layout.
    return library.mix_backward(dense(t["x"]), 0.0, t["permutation"].contiguous(), t["lam"].contiguous())


CASES = (
    Case(
        name="mix",
        kind="mix",
        sizes="images",
        make=_mixing_alike,
        call=calling("mix", "x", lam=0.3),
        differentiable=("x",),
        exact=True,
    ),
    Case(
        name="mix-per-sample",
        kind="mix",
        sizes="images",
        make=_mixing,
        call=calling("mix", "x"),
        differentiable=("x",),
        exact=True,
    ),
    Case(name="mix_backward", kind="mix", sizes="images", make=_mixing, call=_backward),
)
