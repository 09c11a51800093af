"""One projected ascent step: pgd_step and, in place, pgd_step_."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.ball import named, rounded
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.reference import step as reference


def pgd_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Tensor:
    """Steepest ascent for the norm, then :func:`project`, in one op.

    linf: ``project(x + step_size sign(grad))``. l2: ``project(x + step_size grad / |grad|_2)``, the norm taken a sample
    and scaled so that it neither overflows nor underflows. A zero gradient moves nothing; a NaN moves nothing either:
    its coordinate for linf, its sample for l2.

    Args:
        x: iterates [N, ...], float64, float32, bfloat16 or float16.
        grad: gradient of what ascends, of the shape and device of x.
        x0: clean samples, of the shape and device of x; finite.
        eps: radius in the units of x, a float or one a sample, [N]; not negative.
        step_size: length of the step in the norm, a float or one a sample, [N]; negative descends.
        norm: "linf" or "l2".
        bounds: (low, high), or None for no box.
        mode: "exact" or "sequential", see :func:`project`.

    Returns:
        The next iterates in x's dtype and layout, detached: no gradient is offered.

    Raises:
        TypeError: x, grad or x0 are not floating-point tensors, a number is no number.
        ValueError: shapes or devices differ, eps is negative or NaN, step_size is NaN, low > high, unknown norm or
            mode.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """
    return rounded(_pgd_step(*_arguments(x, grad, x0, eps, step_size, norm, bounds, mode)), x)


def pgd_step_(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Tensor:
    """:func:`pgd_step` in place: writes the next iterates into ``x`` and returns it.

    An x that is neither contiguous nor channels_last, or narrower than grad or x0, is written by way of a copy. Raises
    as :func:`pgd_step`, and ValueError where x requires grad while gradients are recorded.
    """
    arguments = _arguments(x, grad, x0, eps, step_size, norm, bounds, mode)
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x requires grad: pgd_step_ changes it in place, so call it under torch.no_grad()")
    if arguments[0] is not x:
        return x.copy_(_pgd_step(*arguments))
    _pgd_step_(*arguments)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(x)
    return x


def pgd_stepper(
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    mode: str = "exact",
) -> Callable[[Tensor, Tensor], Tensor]:
    """:func:`pgd_step` around ``x0`` for a loop, ``(x, grad) -> next x``, its arguments checked once.

    x and grad, which the loop makes, are taken to have the shape, the device and at most the precision of x0.
    """
    checks.samples("x0", x0)
    exact = checks.choice("mode", mode, checks.MODES)
    arguments = (*ball_and_step(x0, eps, step_size, norm, bounds), exact)
    return lambda x, grad: _pgd_step(*aligned(x, grad, x0), *arguments)


def _arguments(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: tuple[float, float] | None,
    mode: str,
) -> tuple[Any, ...]:
    checks.samples("x", x)
    checks.floating("grad", grad)
    checks.same("grad", grad, "x", x)
    checks.floating("x0", x0)
    checks.same("x0", x0, "x", x)
    tensors = aligned(x, grad, x0)
    exact = checks.choice("mode", mode, checks.MODES)
    return *tensors, *ball_and_step(tensors[0], eps, step_size, norm, bounds), exact


def ball_and_step(
    x: Tensor, eps: float | Tensor, step_size: float | Tensor, norm: str, bounds: tuple[float, float] | None
) -> tuple[float, Tensor | None, float, Tensor | None, int, float, float]:
    """Radius, step size, norm and box as the schemas take them."""
    return (
        *checks.radius("eps", eps, x),
        *checks.step("step_size", step_size, x),
        checks.choice("norm", norm, checks.NORMS),
        *checks.box(bounds),
    )


def _pgd_step_reference(x, grad, x0, eps, eps_n, step_size, step_size_n, norm, low, high, exact):
    size = step_size if step_size_n is None else step_size_n
    keywords = named(eps, eps_n, norm, low, high) | {"mode": "exact" if exact else "sequential"}
    return like(x, reference.pgd_step(x, grad, x0, step_size=size, **keywords))


def _pgd_step_in_place_reference(x, *arguments):
    x.copy_(_pgd_step_reference(x, *arguments))


_pgd_step = define("pgd_step", family="step", fake=lambda x, *_: torch.empty_like(x), reference=_pgd_step_reference)
_pgd_step_ = define("pgd_step_", family="step", fake=lambda *_: None, reference=_pgd_step_in_place_reference)
