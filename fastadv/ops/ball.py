"""Projection onto norm ball and box, and uniform random starts: project and random_start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.reference import ball as reference

_NORM_NAMES = tuple(checks.NORMS)


def project(
    x: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Tensor:
    """Project ``x`` onto the ball of radius ``eps`` around ``x0`` and the box ``bounds``.

    ``mode="exact"`` is the Euclidean projection onto the intersection: ``argmin_z |z - x|_2`` over ``|z - x0| <= eps``
    and ``low <= z <= high``. For linf it clamps to the tighter of the bounds; for l2 it is
    ``clamp(x0 + s (x - x0), low, high)``; for l1 ``clamp(x0 + sign(x - x0) max(|x - x0| - t, 0), low, high)``. s
    and t are found by Newton's method in a bounded number of passes, none for a sample that lies inside.
    ``mode="sequential"`` projects onto the ball, then clips to the box: what attack libraries do, for linf to the bit.

    Measured in float32, linf results lie within one unit in the last place of the pixel, l2 and l1 norms are at most
    eps (1 + 4 * 2^-23), the box holds exactly. Where ball and box do not meet, the box wins.

    Args:
        x: samples [N, ...], float64, float32, bfloat16 or float16.
        x0: centres, of the shape and device of x; finite.
        eps: radius in the units of x, a float or one a sample, [N]; not negative.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box.
        mode: "exact" or "sequential".

    Returns:
        The projection in x's dtype and layout, detached: no gradient is offered. Reduced precisions round once at the
        end, so keep images in float32 for the ball to hold.

    Raises:
        TypeError: x or x0 are not floating-point tensors, eps or bounds are no numbers.
        ValueError: shapes or devices differ, eps is negative or NaN, low > high, unknown norm or mode.
    """
    tensors = (x, x0) if checks.samples_alike(("x", "x0"), x, x0) else aligned(x, x0)
    return rounded(_project.on(x)(*tensors, *_arguments(tensors[0], eps, norm, bounds, mode)), x)


def projector(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Callable[[Tensor], Tensor]:
    """:func:`project` around ``x0`` for a loop, ``x -> projection``, its arguments checked once.

    x, which the loop makes, is taken to have the shape, the device and at most the precision of x0.
    """
    checks.samples("x0", x0)
    arguments = _arguments(x0, eps, norm, bounds, mode)
    return lambda x: _project.on(x)(*aligned(x, x0), *arguments)


def random_start(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int | Tensor = 0,
    sample_ids: Tensor | None = None,
) -> Tensor:
    """A point drawn uniformly from the ball of radius ``eps`` around each ``x0``, clipped to the box.

    linf: every coordinate uniform in [-eps, eps). l2: a normal direction at radius ``eps u^(1/D)``, u uniform in
    (0, 1], which is uniform in volume, not in radius. l1: exponential deviates with random signs, times eps over the
    sum of them and of one more. The noise is Philox4x32-10 with key = seed and counter = (logical element, sample id):
    the same on every backend and in every memory layout, whatever batch a sample lands in.

    Args:
        x0: centres [N, ...], float64, float32, bfloat16 or float16, inside the box.
        eps: radius in the units of x0, a float or one a sample, [N]; not negative.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box.
        seed: an int, or an int64 tensor without dimensions on the device of x0.
        sample_ids: int64 [N], the samples' identities; None is 0 ... N - 1. Restart or particle r of sample i has
            ``i + (r << 32)``.

    Returns:
        The points in x0's dtype and layout.

    Raises:
        TypeError: x0 is not a floating-point tensor, seed or sample_ids are not int64, eps or bounds are no numbers.
        ValueError: a shape or device is wrong, eps is negative or NaN, low > high, unknown norm.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    checks.samples("x0", x0)
    radius, radii = checks.radius("eps", eps, x0)
    low, high = checks.box(bounds)
    number, tensor = checks.seed(seed, x0)
    numbers = (checks.choice("norm", norm, checks.NORMS), low, high, number)
    if sample_ids is not None:
        checks.int64("sample_ids", sample_ids, [x0.shape[0]], x0)
        sample_ids = sample_ids.contiguous()
    arguments = (radius, *_random_start.tail(numbers, radii, tensor, sample_ids))
    return _random_start.on(x0)(*aligned(x0), *arguments)


def rounded(result: Tensor, x: Tensor) -> Tensor:
    """``result`` in the dtype of ``x``, which is narrower where another tensor of the op was wider than x."""
    return result if result.dtype is x.dtype else result.to(x.dtype)


def named(eps: float, norm: int, low: float, high: float, eps_n: Tensor | None) -> dict[str, Any]:
    """The schemas' radius, norm and box as the keywords of the reference."""
    return {"eps": eps if eps_n is None else eps_n, "norm": _NORM_NAMES[norm], "bounds": (low, high)}


def _arguments(
    x: Tensor, eps: float | Tensor, norm: str, bounds: tuple[float, float] | None, mode: str
) -> tuple[Any, ...]:
    """All but the samples, as project passes them."""
    radius, radii = checks.radius("eps", eps, x)
    low, high = checks.box(bounds)
    numbers = (checks.choice("norm", norm, checks.NORMS), low, high, checks.choice("mode", mode, checks.MODES))
    return radius, *_project.tail(numbers, radii)


def _project_reference(x, x0, eps, norm, low, high, exact, eps_n):
    mode = "exact" if exact else "sequential"
    return like(x, reference.project(x, x0, **named(eps, norm, low, high, eps_n), mode=mode))


def _random_start_reference(x0, eps, norm, low, high, seed, eps_n, seed_t, sample_ids):
    keywords = named(eps, norm, low, high, eps_n)
    seed = seed if seed_t is None else seed_t
    return like(x0, reference.random_start(x0, **keywords, seed=seed, sample_ids=sample_ids))


_project = define("project", family="ball", fake=lambda x, *_: torch.empty_like(x), reference=_project_reference)
_random_start = define(
    "random_start", family="ball", fake=lambda x0, *_: torch.empty_like(x0), reference=_random_start_reference
)
