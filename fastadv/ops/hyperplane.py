"""The nearest point of a hyperplane within a box: project_hyperplane."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.ball import rounded
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.reference import hyperplane as reference

_NORM_NAMES = tuple(checks.NORMS)


def project_hyperplane(
    x: Tensor,
    normal: Tensor,
    offset: Tensor,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    norm: str = "linf",
) -> Tensor:
    """Project ``x`` onto the part of the hyperplane ``{u : normal . u = offset}`` that lies in the box ``bounds``.

    With the gap ``c = |normal . x - offset|``, every coordinate moves against ``sign(normal . x - offset) normal``, by

        linf: ``min(t, room_i)`` where normal_i is not zero, for l2 ``min(t |normal_i|, room_i)``, with the t for which
        ``sum_i |normal_i| move_i = c``, found by Newton's method: concave and piecewise linear, it is rising from the
        left and exact as soon as no coordinate comes to the end of its room on the way;

        l1: the whole room from the largest ``|normal_i|`` down until c is reached, at the last ones what is missing;
        the last ones are found among the magnitudes bit by bit, and where several are equal, they go the same share.

    Where the plane does not meet the box, all coordinates go to the end of their room: the corner next to the plane. A
    normal that is zero everywhere, or a gap that is NaN or infinite, moves nothing.

    Args:
        x: samples [N, ...], float64, float32, bfloat16 or float16; clipped to the box first.
        normal: normals of the planes, of the shape and device of x; no scale is too small or too large.
        offset: [N], floating-point.
        bounds: (low, high), or None for no box.
        norm: in which the point is the nearest, "linf", "l2" or "l1".

    Returns:
        The points in x's dtype and layout, detached: no gradient is offered.

    Raises:
        TypeError: x, normal or offset are not floating-point tensors, bounds are no numbers.
        ValueError: shapes or devices differ, low > high, unknown norm.

    Source: Croce, Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020.
    """
    dense = checks.samples_alike(("x", "normal"), x, normal)
    tensors = (x, normal) if dense else aligned(x, normal)
    numbers = (checks.choice("norm", norm, checks.NORMS), *checks.box(bounds))
    offset = checks.offsets("offset", offset, tensors[0])
    return rounded(_project_hyperplane.on(x)(*tensors, offset, *_project_hyperplane.tail(numbers)), x)


def _project_hyperplane_reference(x, normal, offset, norm, low, high):
    return like(x, reference.project_hyperplane(x, normal, offset, norm=_NORM_NAMES[norm], bounds=(low, high)))


_project_hyperplane = define(
    "project_hyperplane",
    family="hyperplane",
    fake=lambda x, *_: torch.empty_like(x),
    reference=_project_hyperplane_reference,
)
