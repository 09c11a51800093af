"""One step of Stein variational gradient descent on the particles of each image: svgd_step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.ball import named, rounded
from fastadv.ops.dispatch import define, like
from fastadv.ops.step import ball_and_step
from fastadv.reference import svgd as reference

UPDATES = {"sign": 0, "l2": 1, "raw": 2}
_UPDATE_NAMES = tuple(UPDATES)
# The inverse of its square is still a float32.
_LEAST_BANDWIDTH = 1e-18


def svgd_step(
    particles: Tensor,
    score: Tensor,
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    bandwidth: float | str = "median",
    update: str = "sign",
    score_scale: float | str = 1.0,
) -> Tensor:
    """Move the n particles of each image along the Stein direction, then project them (:func:`project`, exact).

    With ``k_ij = exp(-|x_i - x_j|^2 / (2 sigma^2))`` over the particles of one image only,

        ``phi_i = 1/n sum_j [ score_scale k_ij score_j + k_ij (x_i - x_j) / sigma^2 ]``

    the first term draws particles to where the score points, the second keeps them apart.

    Args:
        particles: [N, n, ...], float64, float32, bfloat16 or float16.
        score: gradient of the log-density at each particle, of the shape and device of particles.
        x0: clean images [N, ...]; finite and in the box.
        eps: radius in the units of the images, a float or one an image, [N]; not negative.
        step_size: length of the step, a float or one an image, [N].
        norm: "linf", "l2" or "l1", of the ball.
        bounds: (low, high), or None for no box.
        bandwidth: sigma as a float of at least 1e-18, or "median": ``sigma^2 = med^2 / (2 log(n + 1))`` with med the
            lower median of the image's pairwise distances; where it is zero the kernel is flat (k = 1) and nothing
            repels.
        update: "sign" moves by ``step_size sign(phi)``, "l2" by ``step_size phi / |phi|_2`` (each particle), "raw" by
            ``step_size phi``.
        score_scale: a float, or "rms": both terms of phi brought to equal root mean square over the image's particles,
            where neither is zero, however small or large the scores are. At eps = 8/255 repulsion is about as large as
            a clean image's cross-entropy gradient and dwarfs it on easy images, so at scale 1 particles may do nothing
            but repel.

    Returns:
        The moved particles in their dtype and layout, detached: no gradient is offered.

    Raises:
        TypeError: particles, score or x0 are not floating-point tensors, a number is no number.
        ValueError: shapes or devices differ, eps is negative or NaN, bandwidth is too small, low > high, on a
            CPU x0 lies outside of bounds, unknown norm, update, bandwidth or score_scale; on the CUDA backend, which
            asks only once it is called, more than 32 particles an image, on Triton more than 1024.

    Source: Liu, Wang, "Stein variational gradient descent", NeurIPS 2016; the projected form for adversarial
    distributions is that of ALD (AISTATS 2022), with a kernel that joins no two images.
    """
    check_particles(particles, score)
    checks.floating("x0", x0)
    checks.shape("x0", x0, [particles.shape[0], *particles.shape[2:]], particles)
    dtype = torch.promote_types(torch.promote_types(particles.dtype, score.dtype), x0.dtype)
    tensors = (particles.to(dtype), score.to(dtype), x0.to(dtype))
    arguments = _arguments(tensors[0], eps, step_size, norm, bounds, bandwidth, update, score_scale)
    checks.in_box("x0", x0, bounds)
    return rounded(_move(*tensors, arguments), particles)


def svgd_stepper(
    x0: Tensor,
    *,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    bandwidth: float | str = "median",
    update: str = "sign",
    score_scale: float | str = 1.0,
) -> Callable[[Tensor, Tensor], Tensor]:
    """:func:`svgd_step` around ``x0`` for a loop, ``(particles, score) -> particles``, its arguments checked once.

    particles and score, which the loop makes, are taken to fit x0 in shape and device and to have its dtype.
    """
    checks.samples("x0", x0)
    arguments = _arguments(x0, eps, step_size, norm, bounds, bandwidth, update, score_scale)
    return lambda particles, score: _move(particles, score, x0, arguments)


def check_particles(particles: Tensor, score: Tensor) -> None:
    """Require floating-point ``particles`` [N, n, ...] and a ``score`` of their shape."""
    checks.samples("particles", particles)
    if particles.dim() < 3:
        raise ValueError(f"particles must have shape [N, n, ...], got {list(particles.shape)}")
    checks.floating("score", score)
    checks.same("score", score, "particles", particles)


def check_bandwidth(bandwidth: float | str) -> float | None:
    """Return sigma, None for the median rule. Raises TypeError and ValueError for what is neither."""
    sigma = checks.number_or("bandwidth", bandwidth, "median")
    if sigma is not None and not sigma >= _LEAST_BANDWIDTH:
        raise ValueError(f"bandwidth must be at least {_LEAST_BANDWIDTH}, got {bandwidth!r}")
    return sigma


def _arguments(
    x: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    bounds: tuple[float, float] | None,
    bandwidth: float | str,
    update: str,
    score_scale: float | str,
) -> tuple[Any, ...]:
    sigma = check_bandwidth(bandwidth)
    scale = checks.number_or("score_scale", score_scale, "rms")
    code = checks.choice("update", update, UPDATES)
    radius, size, radii, sizes, ball, low, high = ball_and_step(x, eps, step_size, norm, bounds)
    return radius, size, *_svgd_step.tail((ball, low, high, sigma, code, scale), radii, sizes)


def _move(particles: Tensor, score: Tensor, x0: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    """The step on tensors of one dtype."""
    tensors = (particles, score, x0)
    if not _channels_last(particles):
        return _svgd_step.on(x0)(*(x.contiguous() for x in tensors), *arguments)
    # The step does not care in which order the elements of a particle come, so channels_last is a matter of view.
    viewed = (x.movedim(channel, -1).contiguous() for x, channel in zip(tensors, (2, 2, 1), strict=True))
    return _svgd_step.on(x0)(*viewed, *arguments).movedim(-1, 2)


def _channels_last(particles: Tensor) -> bool:
    return particles.dim() > 3 and not particles.is_contiguous() and particles.movedim(2, -1).is_contiguous()


def _svgd_step_reference(
    particles, score, x0, eps, step_size, norm, low, high, bandwidth, update, score_scale, eps_n, step_size_n
):
    moved = reference.svgd_step(
        particles,
        score,
        x0,
        step_size=step_size if step_size_n is None else step_size_n,
        bandwidth="median" if bandwidth is None else bandwidth,
        update=_UPDATE_NAMES[update],
        score_scale="rms" if score_scale is None else score_scale,
        **named(eps, norm, low, high, eps_n),
    )
    return like(particles, moved)


_svgd_step = define(
    "svgd_step",
    family="svgd",
    fake=lambda particles, *_: torch.empty_like(particles),
    reference=_svgd_step_reference,
)
