"""Arguments that the ops of several families take, drawn beside their inputs; each under the argument's name."""

from __future__ import annotations

from collections.abc import Callable

from tests.ops.cases.case import Draw, Size, Tensors

Make = Callable[[Draw, Size], Tensors]


def stepping(draw: Draw, size: Size) -> Tensors:
    """Iterates near clean images, and gradients."""
    x0 = draw.pixels(size)
    return {"x": x0 + draw.normal(size, 0.02), "grad": draw.gradient(size), "x0": x0}


def networks(draw: Draw, size: Size) -> Tensors:
    """Logits of a student and of a teacher."""
    return {"student": draw.normal(size, 2.0), "teacher": draw.normal(size, 3.0)}


def labelled(draw: Draw, size: Size) -> Tensors:
    return networks(draw, size) | {"target": draw.classes(*size)}


def with_eps(make: Make, most: float) -> Make:
    """``eps`` a sample, up to ``most``."""
    return lambda draw, size: make(draw, size) | {"eps": draw.positive(size[0], most)}


def with_eps_and_step_size(make: Make, most: float) -> Make:
    """Both a sample, up to ``most``; a third of the steps descend."""
    return lambda draw, size: with_eps(make, most)(draw, size) | {"step_size": draw.positive(size[0], most) - most / 3}


def with_eps_a_channel(make: Make, most: float) -> Make:
    """``eps`` [1, C, 1, ...] up to ``most``."""

    def making(draw: Draw, size: Size) -> Tensors:
        return make(draw, size) | {"eps": draw.positive(size[1], most).view(1, -1, *[1] * (len(size) - 2))}

    return making


def with_mask(make: Make) -> Make:
    """Pixels that may move, the same in all samples: two of three."""

    def masking(draw: Draw, size: Size) -> Tensors:
        drawn = make(draw, size)
        return drawn | {"mask": draw.gradient((1, *size[1:])) > -0.4}

    return masking


def with_margin(make: Make, most: float) -> Make:
    return lambda draw, size: make(draw, size) | {"margin": draw.positive(size[0], most) + 1 / 64}


def with_weight(make: Make) -> Make:
    return lambda draw, size: make(draw, size) | {"weight": draw.positive(size[0], 3.0)}
