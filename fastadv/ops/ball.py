"""Projection onto norm ball and box, and uniform random starts: project and random_start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.numerics import accumulate
from fastadv.ops import checks, pixelwise
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.ops.pixelwise import Bounds
from fastadv.reference import ball as reference

_NORM_NAMES = tuple(checks.NORMS)


def project(
    x: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    mode: str = "exact",
    mask: Tensor | None = None,
) -> Tensor:
    """Project ``x`` onto the ball of radius ``eps`` around ``x0`` and the box ``bounds``.

    ``mode="exact"`` is the Euclidean projection onto the intersection: ``argmin_z |z - x|_2`` over ``|z - x0| <= eps``
    and ``low <= z <= high``. For linf it clamps to the tighter of the bounds; for l2 it is
    ``clamp(x0 + s (x - x0), low, high)``; for l1 ``clamp(x0 + sign(x - x0) max(|x - x0| - t, 0), low, high)``. s
    and t are found by Newton's method in a bounded number of passes, none for a sample that lies inside.
    ``mode="sequential"`` projects onto the ball, then clips to the box: what attack libraries do, for linf to the bit,
    up to the sign of a zero.

    Measured in float32, linf results lie within one unit in the last place of the pixel, l2 and l1 norms are at most
    eps (1 + 4 * 2^-23) (those of l2 for eps of 0 or from 1e-18 to 1e18, whose square float32 holds), the box holds
    exactly. Where ball and box do not meet, the box wins: an x0 outside of it ends in the box, however far that is.
    Steps and starts refuse such an x0 on a CPU, where they look at each x0 once.

    Args:
        x: samples [N, ...], float64, float32, bfloat16 or float16; for l2 finite: an infinite coordinate becomes NaN.
        x0: centres, of the shape and device of x; finite.
        eps: radius in the units of x, a float or one a sample, [N]; for linf also one a channel or pixel, a tensor of
            two dimensions or more that broadcasts to x; not negative.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box; each a float, for linf also a tensor as eps.
        mode: "exact" or "sequential".
        mask: pixels that may differ from x0, a bool tensor that broadcasts to x, or a floating-point one that is not
            zero there; None is all of them.

    Returns:
        The projection in x's dtype and layout, detached: no gradient is offered. Reduced precisions round once at the
        end, so keep images in float32 for the ball to hold.

    Raises:
        TypeError: x or x0 are not floating-point tensors, eps or bounds are no numbers, mask is no such tensor.
        ValueError: shapes or devices differ, eps is negative or NaN, low > high, unknown norm or mode; eps or bounds
            for each channel or pixel with another norm than linf.
    """
    dense = checks.samples_alike(("x", "x0"), x, x0)
    if pixelwise.given(mask, bounds, eps):
        wide = pixelwise.widened(x0, x)
        return projector(wide, eps=eps, norm=norm, bounds=bounds, mode=mode, mask=mask)(x)
    tensors = (x, x0) if dense else aligned(x, x0)
    return rounded(_project.on(x)(*tensors, *_arguments(tensors[0], eps, norm, bounds, mode)), x)


def projector(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    mode: str = "exact",
    mask: Tensor | None = None,
) -> Callable[[Tensor], Tensor]:
    """:func:`project` around ``x0`` for a loop, ``x -> projection``, its arguments checked once.

    x, which the loop makes, is taken to have the shape, the device and at most the precision of x0.
    """
    checks.samples("x0", x0)
    if pixelwise.given(mask, bounds, eps):
        pixels = pixelwise.Pixels(x0, norm, bounds, mask, eps=eps)
        rest: dict[str, Any] = {"norm": norm, "bounds": pixels.bounds, "mode": mode}
        rows = projector(pixels.x0, **pixels.numbers, **rest)
        return lambda x: pixels.restored(rows(pixels.inside(x)), x)
    arguments = _arguments(x0, eps, norm, bounds, mode)
    return lambda x: _project.on(x)(*aligned(x, x0), *arguments)


def random_start(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    seed: int | Tensor = 0,
    sample_ids: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """A point drawn uniformly from the ball of radius ``eps`` around each ``x0``, clipped to the box.

    linf: every coordinate uniform in [-eps, eps). l2: a normal direction at radius ``eps u^(1/D)``, u uniform in
    (0, 1], which is uniform in volume, not in radius. l1: exponential deviates with random signs, times eps over the
    sum of them and of one more. The noise is Philox4x32-10 with key = seed and counter = (logical element, sample id):
    the same on every backend and in every memory layout, whatever batch a sample lands in.

    Args:
        x0: centres [N, ...], float64, float32, bfloat16 or float16, inside the box.
        eps: radius in the units of x0, as in :func:`project`.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box, as in :func:`project`.
        seed: an int, or an int64 tensor without dimensions on the device of x0.
        sample_ids: int64 [N], the samples' identities; None is 0 ... N - 1. Restart or particle r of sample i has
            ``i + (r << 32)``.
        mask: pixels that may differ from x0, as in :func:`project`. The point is drawn in the whole ball, then the
            other pixels are put back.

    Returns:
        The points in x0's dtype and layout.

    Raises:
        TypeError: x0 is not a floating-point tensor, seed or sample_ids are not int64, eps or bounds are no numbers.
        ValueError: a shape or device is wrong, eps is negative or NaN, low > high, on a CPU x0 lies outside of bounds,
            unknown norm; eps or bounds for each channel or pixel with another norm than linf.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    start = uniform_start(x0, eps=eps, norm=norm, bounds=bounds, seed=seed, sample_ids=sample_ids, mask=mask)
    checks.in_box("x0", x0, bounds)
    return start


def uniform_start(
    x0: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    seed: int | Tensor = 0,
    sample_ids: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`random_start` for a loop, which knows whether its images lie in the box."""
    checks.samples("x0", x0)
    if pixelwise.given(mask, bounds, eps):
        pixels = pixelwise.Pixels(x0, norm, bounds, mask, eps=eps)
        return _pixelwise_start(pixels, x0, norm, seed=seed, sample_ids=sample_ids)
    radius, radii = checks.radius("eps", eps, x0)
    low, high = checks.box(bounds)
    number, tensor = checks.seed(seed, x0)
    numbers = (checks.choice("norm", norm, checks.NORMS), low, high, number)
    if sample_ids is not None:
        checks.int64("sample_ids", sample_ids, [x0.shape[0]], x0)
        sample_ids = sample_ids.contiguous()
    arguments = (radius, *_random_start.tail(numbers, radii, tensor, sample_ids))
    return _random_start.on(x0)(*aligned(x0), *arguments)


def _pixelwise_start(pixels: pixelwise.Pixels, x0: Tensor, norm: str, **noise: Any) -> Tensor:
    wide = accumulate(x0.detach())
    if pixels.by_sample:
        start = uniform_start(wide, eps=pixels.numbers["eps"], norm=norm, bounds=pixels.bounds, **noise)
    else:
        # The noise depends on where in its sample an element lies, so it is drawn for whole samples.
        unit = pixels.rows(uniform_start(torch.zeros_like(wide), eps=1.0, bounds=None, **noise))
        start = pixels.x0 + pixels.numbers["eps"][:, None] * unit
        start = start if pixels.bounds is None else start.clamp(*pixels.bounds)
    return pixels.restored(pixels.inside(start), x0)


def rounded(result: Tensor, x: Tensor) -> Tensor:
    """Return ``result`` in the dtype of ``x``, which is narrower where another tensor of the op was wider than x."""
    return result if result.dtype is x.dtype else result.to(x.dtype)


def named(eps: float, norm: int, low: float, high: float, eps_n: Tensor | None) -> dict[str, Any]:
    """The schemas' radius, norm and box as the keywords of the reference."""
    return {"eps": eps if eps_n is None else eps_n, "norm": _NORM_NAMES[norm], "bounds": (low, high)}


def _arguments(x: Tensor, eps: float | Tensor, norm: str, bounds: Bounds, mode: str) -> tuple[Any, ...]:
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
