"""One ascent step: pgd_step and, in place, pgd_step_; momentum_step; bss_step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.numerics import accumulation_dtype
from fastadv.ops import checks, pixelwise
from fastadv.ops.ball import named, rounded
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.ops.pixelwise import Bounds
from fastadv.reference import step as reference


def pgd_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mode: str = "exact",
    mask: Tensor | None = None,
) -> Tensor:
    """Steepest ascent for the norm, then :func:`project`, in one op.

    linf: ``project(x + step_size sign(grad))``. l2: ``project(x + step_size grad / |grad|_2)``, the norm taken a sample
    and scaled so that it neither overflows nor underflows. l1: ``project(x + step_size / m sign(grad))`` in the m
    coordinates of largest ``|grad|`` alone: all those that are not smaller than the k-th largest of a sample, with
    ``k = ceil(l1_fraction D)``, and not zero. m differs from k where magnitudes tie or fewer than k are not zero.

    A zero gradient moves nothing; a NaN moves nothing either: its coordinate for linf and l1, its sample for l2.

    Args:
        x: iterates [N, ...], float64, float32, bfloat16 or float16.
        grad: gradient of what ascends, of the shape and device of x.
        x0: clean samples, of the shape and device of x; finite and in the box.
        eps: radius in the units of x, as in :func:`project`.
        step_size: length of the step in the norm, a float or one a sample, [N]; for linf also one a channel or pixel,
            as eps; negative descends.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box, as in :func:`project`.
        l1_fraction: share of the coordinates that an l1 step moves, in (0, 1].
        mode: "exact" or "sequential", see :func:`project`.
        mask: pixels that may differ from x0, as in :func:`project`; elsewhere the gradient counts as zero.

    Returns:
        The next iterates in x's dtype and layout, detached: no gradient is offered.

    Raises:
        TypeError: x, grad or x0 are not floating-point tensors, a number is no number.
        ValueError: shapes or devices differ, eps is negative or NaN, step_size is NaN, low > high, on a CPU x0 lies
            outside of bounds, l1_fraction lies outside of (0, 1], unknown norm or mode; eps, step_size or bounds for
            each channel or pixel with another norm than linf.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; for l1 the sparse
    step of SLIDE, Tramer, Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019.
    """
    if pixelwise.given(mask, bounds, eps, step_size):
        return _pixelwise_step(x, grad, x0, eps, step_size, norm, bounds, l1_fraction, mode, mask)
    arguments = _arguments(x, grad, x0, eps, step_size, norm, bounds, l1_fraction, mode)
    checks.in_box("x0", x0, bounds)
    moved = _pgd_step.on(x)(*arguments)
    return moved if arguments[0] is x else rounded(moved, x)


def pgd_step_(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mode: str = "exact",
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`pgd_step` in place: writes the next iterates into ``x`` and returns it.

    An x that is neither contiguous nor channels_last, or narrower than grad or x0, is written by way of a copy. Raises
    as :func:`pgd_step`, and ValueError where x requires grad while gradients are recorded.
    """
    checks.floating("x", x)
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError("x requires grad: pgd_step_ changes it in place, so call it under torch.no_grad()")
    if pixelwise.given(mask, bounds, eps, step_size):
        return x.copy_(_pixelwise_step(x, grad, x0, eps, step_size, norm, bounds, l1_fraction, mode, mask))
    arguments = _arguments(x, grad, x0, eps, step_size, norm, bounds, l1_fraction, mode)
    checks.in_box("x0", x0, bounds)
    if arguments[0] is not x:
        return x.copy_(_pgd_step.on(x)(*arguments))
    _pgd_step_.on(x)(*arguments)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(x)
    return x


def pgd_stepper(
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mode: str = "exact",
    mask: Tensor | None = None,
    in_place: bool = False,
) -> Callable[..., Tensor]:
    """:func:`pgd_step` around ``x0`` for a loop, ``(x, grad) -> next x``, its arguments checked once.

    x and grad, which the loop makes, are taken to have the shape, the device and at most the precision of x0. A third
    argument, [N] in the precision that x0 accumulates in, takes the place of ``step_size``.

    in_place: the next x takes the memory of x, which the loop must own and read no more; not that of x0, should x be
        the very same tensor. New memory at each step costs page faults where x is large. With a mask or pixelwise
        arguments, and under torch.compile, which plans memory itself, it makes no difference.
    """
    checks.samples("x0", x0)
    if pixelwise.given(mask, bounds, eps, step_size):
        return _pixelwise_stepper(x0, eps, step_size, norm, bounds, l1_fraction, mode, mask)
    radius, size, radii, own_sizes, code, low, high = ball_and_step(x0, eps, step_size, norm, bounds)
    fraction, exact = checks.fraction("l1_fraction", l1_fraction), checks.choice("mode", mode, checks.MODES)
    numbers = (code, low, high, fraction, exact)
    arguments = (radius, size, *_pgd_step.tail(numbers, radii, own_sizes))

    def step(x: Tensor, grad: Tensor, sizes: Tensor | None = None) -> Tensor:
        if sizes is None:
            samples = aligned(x, grad, x0)
            if not in_place or x is x0 or samples[0] is not x or torch.compiler.is_compiling():
                return _pgd_step.on(x)(*samples, *arguments)
            _pgd_step_.on(x)(*samples, *arguments)
            torch.autograd.graph.increment_version(x)
            return x
        return _pgd_step.on(x)(*aligned(x, grad, x0), radius, size, *numbers, radii, sizes)

    return step


def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    decay: float = 1.0,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gather the gradient in a momentum and step along that, in one op.

        ``momentum' = decay momentum + grad / mean |grad|``, the mean over the sample's elements,
        ``x' = project(x + step_size u)``

    where u is ``sign(momentum')`` for linf, ``momentum' / |momentum'|_2`` for l2 and the signs of the largest
    coordinates for l1, as in :func:`pgd_step`. A NaN in the gradient counts as zero: its coordinate adds nothing to the
    mean and to the momentum. A gradient whose mean magnitude is zero or infinite adds nothing; the mean of any other
    neither overflows nor underflows.

    Args:
        x: iterates [N, ...], float64, float32, bfloat16 or float16.
        grad: gradient of what ascends, of the shape and device of x.
        momentum: the momentum so far, of the shape and device of x; zeros at first. Best kept in float32.
        x0: clean samples, of the shape and device of x; finite and in the box.
        eps: radius in the units of x, as in :func:`project`.
        step_size: length of the step in the norm, as in :func:`pgd_step`; negative descends.
        decay: what is kept of the momentum.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box, as in :func:`project`.
        l1_fraction: share of the coordinates that an l1 step moves, in (0, 1].
        mask: pixels that may differ from x0, as in :func:`project`; elsewhere gradient and momentum count as zero.

    Returns:
        The next iterates in x's dtype and layout and the next momentum in its own dtype and x's layout, both detached:
        no gradient is offered. The step is taken along the momentum before that is rounded to its dtype.

    Raises:
        TypeError: x, grad, momentum or x0 are not floating-point tensors, a number is no number.
        ValueError: shapes or devices differ, eps is negative or NaN, step_size or decay is NaN, low > high, on a CPU x0
            lies outside of bounds, l1_fraction lies outside of (0, 1], unknown norm; eps, step_size or bounds for each
            channel or pixel with another norm than linf.

    Source: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018 (MI-FGSM).
    """
    dense = checks.samples_alike(("x", "grad", "momentum", "x0"), x, grad, momentum, x0)
    if pixelwise.given(mask, bounds, eps, step_size):
        wide = pixelwise.widened(x0, x, grad, momentum)
        move = _pixelwise_momentum_stepper(wide, eps, step_size, norm, bounds, l1_fraction, decay, mask)
        checks.in_box("x0", x0, bounds)
        moved, gathered = move(x, grad, momentum)
        return moved, like(momentum, gathered.view_as(momentum))
    tensors = (x, grad, momentum, x0) if dense else aligned(x, grad, momentum, x0)
    arguments = _momentum_arguments(tensors[0], eps, step_size, norm, bounds, l1_fraction, decay)
    checks.in_box("x0", x0, bounds)
    moved, gathered = _momentum_step.on(x)(*tensors, *arguments)
    return rounded(moved, x), rounded(gathered, momentum)


def momentum_stepper(
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    decay: float = 1.0,
    norm: str = "linf",
    bounds: Bounds = (0.0, 1.0),
    l1_fraction: float = 0.05,
    mask: Tensor | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """:func:`momentum_step` around ``x0`` for a loop, ``(x, grad) -> next x``, its arguments checked once.

    The momentum starts at zero and is kept between the calls. x and grad, which the loop makes, are taken to have the
    shape, the device and at most the precision of x0.
    """
    checks.samples("x0", x0)
    momentum = torch.zeros_like(x0)
    if pixelwise.given(mask, bounds, eps, step_size):
        move = _pixelwise_momentum_stepper(x0, eps, step_size, norm, bounds, l1_fraction, decay, mask)

        def pixelwise_step(x: Tensor, grad: Tensor) -> Tensor:
            nonlocal momentum
            moved, momentum = move(x, grad, momentum)
            return moved

        return pixelwise_step
    arguments = _momentum_arguments(x0, eps, step_size, norm, bounds, l1_fraction, decay)

    def step(x: Tensor, grad: Tensor) -> Tensor:
        nonlocal momentum
        moved, momentum = _momentum_step.on(x)(*aligned(x, grad, momentum, x0), *arguments)
        return moved

    return step


def bss_step(
    x: Tensor,
    grad: Tensor,
    gap: Tensor,
    active: Tensor,
    *,
    step_size: float | Tensor = 0.3,
    bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:
    """A step towards the decision boundary, as long as what separates two logits.

        ``x' = clamp(x + step_size (gap + 1e-4) grad / |grad|_2, low, high)``

    for the samples that are active, the norm taken a sample and scaled so that it neither overflows nor underflows. The
    others return exactly as they came, not even clamped. A gradient that is zero, or in which anything is NaN or
    infinite, moves nothing.

    Args:
        x: iterates [N, ...], float64, float32, bfloat16 or float16.
        grad: gradient of the logit of the class to be reached less that of the base class; shape and device of x.
        gap: logit of the base class less that of the class to be reached, [N], floating-point.
        active: whether the sample is still classified as its base class, [N], bool.
        step_size: share of the gap, a float or one a sample, [N].
        bounds: (low, high), or None for no box.

    Returns:
        The next iterates in x's dtype and layout, detached: no gradient is offered.

    Raises:
        TypeError: x, grad or gap are not floating-point tensors, active is not bool, a number is no number.
        ValueError: shapes or devices differ, step_size is NaN, low > high.

    Source: Heo, Lee, Yun, Choi, "Knowledge distillation with adversarial samples supporting decision boundary", AAAI
    2019 (boundary supporting samples); the step is that of its released code.
    """
    dense = checks.samples_alike(("x", "grad"), x, grad)
    checks.floating("gap", gap)
    checks.shape("gap", gap, [x.shape[0]], x)
    checks.boolean("active", active, [x.shape[0]], x)
    tensors = (x, grad) if dense else aligned(x, grad)
    gap = gap.detach().to(accumulation_dtype(tensors[0])).contiguous()
    arguments = _bss_arguments(tensors[0], step_size, bounds)
    return rounded(_bss_step.on(x)(*tensors, gap, active.contiguous(), *arguments), x)


def bss_stepper(
    x0: Tensor, *, step_size: float | Tensor = 0.3, bounds: tuple[float, float] | None = (0.0, 1.0)
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """:func:`bss_step` from ``x0`` for a loop, ``(x, grad, gap, active) -> next x``, its arguments checked once.

    x and grad, which the loop makes, are taken to have the shape, the device and at most the precision of x0, gap and
    active to fit them.
    """
    checks.samples("x0", x0)
    arguments = _bss_arguments(x0, step_size, bounds)
    dtype = accumulation_dtype(x0)
    return lambda x, grad, gap, active: _bss_step.on(x)(*aligned(x, grad), gap.to(dtype), active, *arguments)


def _pixelwise_stepper(
    x0: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: Bounds,
    l1_fraction: float,
    mode: str,
    mask: Tensor | None,
) -> Callable[..., Tensor]:
    """:func:`pgd_stepper` for what :mod:`fastadv.ops.pixelwise` makes rows of."""
    pixels = pixelwise.Pixels(x0, norm, bounds, mask, eps=eps, step_size=step_size)
    rest: dict[str, Any] = {"norm": norm, "bounds": pixels.bounds, "l1_fraction": l1_fraction, "mode": mode}
    move = pgd_stepper(pixels.x0, **pixels.numbers, **rest)

    def step(x: Tensor, grad: Tensor, sizes: Tensor | None = None) -> Tensor:
        given_sizes = () if sizes is None else (pixels.each_row(sizes),)
        return pixels.restored(move(pixels.inside(x), pixels.moving(grad), *given_sizes), x)

    return step


def _pixelwise_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: Bounds,
    *rest: Any,
) -> Tensor:
    checks.samples_alike(("x", "grad", "x0"), x, grad, x0)
    step = _pixelwise_stepper(pixelwise.widened(x0, x, grad), eps, step_size, norm, bounds, *rest)
    checks.in_box("x0", x0, bounds)
    return step(x, grad)


def _pixelwise_momentum_stepper(
    x0: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: Bounds,
    l1_fraction: float,
    decay: float,
    mask: Tensor | None,
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``(x, grad, momentum) -> next x and momentum``, the latter in the accumulation precision.

    The mean magnitude of a gradient is that of its sample, so the momentum is gathered for whole samples.
    """
    pixels = pixelwise.Pixels(x0, norm, bounds, mask, eps=eps, step_size=step_size)
    move = _pixelwise_stepper(x0, eps, step_size, norm, bounds, l1_fraction, "exact", mask)
    still = torch.zeros_like(x0, dtype=accumulation_dtype(x0)).contiguous()

    def step(x: Tensor, grad: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        grad, momentum = (pixels.moving(g).view(still.shape) for g in (grad, momentum))
        _, gathered = momentum_step(still, grad, momentum, still, eps=0.0, step_size=0.0, decay=decay, bounds=None)
        return move(x, gathered), gathered

    return step


def _arguments(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: Bounds,
    l1_fraction: float,
    mode: str,
) -> tuple[Any, ...]:
    if not checks.samples_alike(("x", "grad", "x0"), x, grad, x0):
        x, grad, x0 = aligned(x, grad, x0)
    radius, size, radii, sizes, code, low, high = ball_and_step(x, eps, step_size, norm, bounds)
    fraction, exact = checks.fraction("l1_fraction", l1_fraction), checks.choice("mode", mode, checks.MODES)
    return x, grad, x0, radius, size, *_pgd_step.tail((code, low, high, fraction, exact), radii, sizes)


def _momentum_arguments(
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: Bounds,
    l1_fraction: float,
    decay: float,
) -> tuple[Any, ...]:
    """All but the samples, as momentum_step passes them."""
    radius, size, radii, sizes, code, low, high = ball_and_step(x, eps, step_size, norm, bounds)
    fraction, decay = checks.fraction("l1_fraction", l1_fraction), checks.number("decay", decay)
    return radius, size, *_momentum_step.tail((code, low, high, fraction, decay), radii, sizes)


def _bss_arguments(x: Tensor, step_size: float | Tensor, bounds: tuple[float, float] | None) -> tuple[Any, ...]:
    """All but the samples, as bss_step passes them."""
    size, sizes = checks.step("step_size", step_size, x)
    return size, *_bss_step.tail(checks.box(bounds), sizes)


def ball_and_step(
    x: Tensor, eps: float | Tensor, step_size: float | Tensor, norm: str, bounds: Bounds
) -> tuple[float, float, Tensor | None, Tensor | None, int, float, float]:
    """Radius and step size, the same one a sample, norm and box, each as the schemas take it."""
    radius, radii = checks.radius("eps", eps, x)
    size, sizes = checks.step("step_size", step_size, x)
    low, high = checks.box(bounds)
    return radius, size, radii, sizes, checks.choice("norm", norm, checks.NORMS), low, high


def _pgd_step_reference(x, grad, x0, eps, step_size, norm, low, high, l1_fraction, exact, eps_n, step_size_n):
    size = step_size if step_size_n is None else step_size_n
    keywords = named(eps, norm, low, high, eps_n) | {"mode": "exact" if exact else "sequential"}
    return like(x, reference.pgd_step(x, grad, x0, step_size=size, l1_fraction=l1_fraction, **keywords))


def _pgd_step_in_place_reference(x, *arguments):
    x.copy_(_pgd_step_reference(x, *arguments))


def _momentum_step_reference(
    x, grad, momentum, x0, eps, step_size, norm, low, high, l1_fraction, decay, eps_n, step_size_n
):
    size = step_size if step_size_n is None else step_size_n
    keywords = named(eps, norm, low, high, eps_n) | {"step_size": size, "l1_fraction": l1_fraction, "decay": decay}
    return tuple(like(x, result) for result in reference.momentum_step(x, grad, momentum, x0, **keywords))


def _bss_step_reference(x, grad, gap, active, step_size, low, high, step_size_n):
    size = step_size if step_size_n is None else step_size_n
    return like(x, reference.bss_step(x, grad, gap, active, step_size=size, bounds=(low, high)))


_pgd_step = define("pgd_step", family="step", fake=lambda x, *_: torch.empty_like(x), reference=_pgd_step_reference)
_pgd_step_ = define("pgd_step_", family="step", fake=lambda *_: None, reference=_pgd_step_in_place_reference)
_momentum_step = define(
    "momentum_step",
    family="step",
    fake=lambda x, *_: (torch.empty_like(x), torch.empty_like(x)),
    reference=_momentum_step_reference,
)
_bss_step = define("bss_step", family="step", fake=lambda x, *_: torch.empty_like(x), reference=_bss_step_reference)
