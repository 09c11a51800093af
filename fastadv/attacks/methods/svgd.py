"""Samples of the adversarial local distribution by Stein variational gradient descent: svgd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv.attacks.configured import Attack, among
from fastadv.attacks.loop.arguments import clean_images, count, step_count, step_length
from fastadv.attacks.loop.ascent import Differentiable, Evaluation, Step, Watch, ascend
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, Loss, objective_of
from fastadv.attacks.loop.quantize import check_on_grid, quantized
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.methods.tald_released import released_particles
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.numerics import accumulate, per_sample
from fastadv.ops import checks
from fastadv.ops.svgd import UPDATES, check_bandwidth, check_particles, svgd_stepper

# The logarithm of the smallest scale of a score. The product of two and a gradient is a float32, and so is its square.
_LEAST_SCALE = math.log(1e-9)

VARIANTS = {name: name for name in ("projected", "released")}


@answers_near_misses
def svgd(
    model: Network | Sequence[Network],
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float | Tensor,
    step_size: float | Tensor | None = None,
    steps: int | Tensor = 10,
    particles: int = 4,
    norm: str = "linf",
    loss: Loss = "ce",
    reference: Tensor | None = None,
    bandwidth: float | str = "median",
    update: str = "sign",
    score_scale: float | str = "rms",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    variant: str = "projected",
    mask: Tensor | None = None,
    eot: int = 1,
    quantize: bool = False,
    check: bool | None = None,
) -> Tensor:
    """Particles drawn from ``p(x'|x, y)``, proportional to ``exp(loss(model(x'), y))`` in the ball around x.

    For "ce" that is ``1 / p_y``, with p_y the model's probability of y, and the score is ``(1 - p_y) grad v``, with v
    the log-odds of being wrong. The factor underflows on a confident model. It is therefore taken to be at least 1e-9
    for the least sure particle of an image, and at least 1e-9 of that for the others; where it is larger by itself, the
    score is that of the cross-entropy. For "kl" the same holds of the largest probability that model or reference gives
    to any class but the reference's first. Sharper logits are another density, in which the least sure particle draws
    the others more: particles need not be the same at every scale of the logits.

    ``variant="projected"``: the particles of each image start uniform in the ball and follow :func:`fastadv.svgd_step`,
    whose kernel joins no two images; the score is the gradient of the loss at each particle. The model sees
    [N * particles, ...], particle j of image i in row ``i * particles + j``. Nothing of the caller's changes, see
    :func:`pgd`.

    ``variant="released"``: what the published code of TALD computes instead, see
    :func:`fastadv.attacks.methods.tald_released.released_particles`. It takes eps (an l2 radius), particles, bandwidth
    (a float; "median" is its own rule), bounds, seed and sample_ids. It is label-free, makes one step whatever
    ``steps`` (an int, 1 or more) is, and has no use for step_size, norm, loss, update and score_scale. It refuses the
    other keywords.

    Args:
        model, x, y, steps, norm, loss, reference, bounds, seed, sample_ids, mask, eot, quantize,
            check: as for :func:`pgd`.
        eps: radius in the units of x, a float or one an image, [N]; not negative.
        step_size: length of a step, a float or [N]; None is ``2.5 eps / steps``.
        particles: how many an image.
        bandwidth, update, score_scale: see :func:`fastadv.svgd_step`. "rms" weighs attraction and repulsion equally; at
            scale 1 they may be orders of magnitude apart (:func:`repulsion_ratio`).
        variant: "projected" or "released".

    Returns:
        Particles [N, particles, ...], detached; float32, or float64 for a float64 x.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape, device or value is wrong, an unknown name; no seed under torch.compile.

    Source: TALD (teacher adversarial local distribution, WACV 2023) and ALD (AISTATS 2022); the per-image kernel with
    the median bandwidth is this library's choice.
    """
    if checks.choice("variant", variant, VARIANTS) == "released":
        count("steps", steps, 1)  # type: ignore[arg-type]
        if y is not None:
            raise ValueError("y must be None for variant 'released', which reads no classes")
        others = {"reference": reference is None, "mask": mask is None, "eot": eot == 1, "quantize": quantize is False}
        for name in (name for name, default in others.items() if not default):
            raise ValueError(f"{name} must be left out for variant 'released'")
        return released_particles(
            model,
            x,
            eps=eps,
            particles=particles,
            bandwidth=bandwidth,
            bounds=bounds,
            seed=seed,
            sample_ids=sample_ids,
            check=check,
        )
    return projected_particles(
        model,
        x,
        Goal(y, loss, reference, eot=eot),
        Ball(eps, norm, bounds, mask=mask),
        Noise(seed, sample_ids),
        Stein(bandwidth, update, score_scale),
        particles=particles,
        step_size=step_size,
        steps=steps,
        check=check,
        quantize=quantize,
    )


class SVGD(
    Attack,
    function=svgd,
    own_checks={
        "particles": lambda name, value: count(name, value, 1),
        "bandwidth": lambda name, value: check_bandwidth(value),
        "update": among(UPDATES),
        "score_scale": lambda name, value: checks.number_or(name, value, "rms"),
        "variant": among(VARIANTS),
    },
):
    """:func:`fastadv.attacks.svgd`, configured once: ``SVGD(eps=8 / 255, particles=8)(model, x, y)``."""


class Stein(NamedTuple):
    """Kernel, direction and weight of the score: the keywords of :func:`fastadv.svgd_step` beside those of the ball."""

    bandwidth: float | str = "median"
    update: str = "sign"
    score_scale: float | str = "rms"


def particle_stepper(x: Tensor, ball: Ball, stein: Stein, step_size: float | Tensor) -> Step:
    """Return :func:`fastadv.svgd_step` in ``ball`` around images ``x`` [N, ...], for particles [N, n, ...]."""
    # Of a box for each pixel, which svgd has not, the stepper's own check says so.
    box: Any = ball.bounds
    return svgd_stepper(x, eps=ball.eps, step_size=step_size, norm=ball.norm, bounds=box, **stein._asdict())


def projected_particles(
    model: Network | Sequence[Network],
    x: Tensor,
    goal: Goal,
    ball: Ball,
    noise: Noise,
    stein: Stein,
    *,
    particles: int,
    step_size: float | Tensor | None,
    steps: int | Tensor,
    check: bool | None = None,
    quantize: bool = False,
    watch: Watch | None = None,
) -> Tensor:
    """Return what :func:`svgd` does with ``variant="projected"``: [N, particles, ...].

    watch: called with each rows [N * particles, ...] and their evaluation, before their step.
    """
    networks = Networks(model, check)
    x = clean_images(x, ball.bounds, check).contiguous()  # svgd_step works on contiguous particles, whatever comes in
    ball.check(x)
    if checks.flag("quantize", quantize):
        check_on_grid(x, ball, check)
    schedule = step_count(steps, x)
    shape = (x.shape[0], count("particles", particles, 1))
    move = particle_stepper(x, ball, stein, step_length(x, ball.eps, step_size, schedule))

    def step(rows: Tensor, score: Tensor) -> Tensor:
        return move(rows.unflatten(0, shape), score.unflatten(0, shape)).flatten(0, 1)

    with no_trace(networks.members):
        start = ball.random_rows(x, particles, noise)
        mask = ball.of_copies(x, particles).mask
        score = Score(objective_of(networks, x, goal, particles, scaled=True, mask=mask), particles)
        rows = ascend(score, start, step, schedule.of_copies(particles), watch=watch)
        if quantize:
            rows = quantized(rows, repeat_rows(x, particles), ball.of_copies(x, particles))
        return rows.unflatten(0, shape)


class Score:
    """``objective`` with its gradients multiplied by their scale, but for what would underflow; see :func:`svgd`.

    Args:
        objective: tells the scale of its gradients, if they have one.
        particles: how many rows an image has.
    """

    def __init__(self, objective: Differentiable, particles: int) -> None:
        self._objective = objective
        self._particles = particles

    def evaluate(self, x: Tensor) -> Evaluation:
        """Return the objective's values at ``x`` [N * particles, ...], and the scores."""
        found = self._objective.evaluate(x)
        if found.log_scale is None:
            return found
        scale = found.log_scale.unflatten(0, (-1, self._particles))
        largest = scale.amax(1, keepdim=True)
        scale = (scale - largest).clamp(min=_LEAST_SCALE) + largest.clamp(min=_LEAST_SCALE)
        return Evaluation(found.value, found.grad * per_sample(scale.exp().flatten(), x), found.reached)


def repulsion_ratio(particles: Tensor, score: Tensor, *, bandwidth: float | str = "median") -> Tensor:
    """Return how many times stronger an image's particles repel than the score attracts them, at score scale 1: [N].

    ``rms(1/n sum_j k_ij (x_i - x_j) / sigma^2) / rms(1/n sum_j k_ij score_j)``, both over particles and elements.
    Zero where nothing repels, infinite where only the score is zero.

    Args:
        particles: [N, n, ...], floating point.
        score: gradient of the loss at each particle, of the same shape.
        bandwidth: see :func:`fastadv.svgd_step`.

    Raises:
        TypeError: particles or score are no floating-point tensors, bandwidth is no number.
        ValueError: particles are not [N, n, ...] with n > 0, shapes or devices differ, bandwidth is an unknown word or
            too small.
    """
    check_particles(particles, score)
    if not particles.shape[1]:
        raise ValueError(f"particles must be at least one an image, got {list(particles.shape)}")
    sigma = check_bandwidth(bandwidth)
    attraction, repulsion = _stein_terms(particles.detach().flatten(2), score.detach().flatten(2), sigma)
    pull, push = (term.square().mean((1, 2)) for term in (attraction, repulsion))
    return torch.where(push == 0, push, push / pull).sqrt()


def _stein_terms(particles: Tensor, score: Tensor, sigma: float | None) -> tuple[Tensor, Tensor]:
    """Return ``1/n sum_j k_ij score_j`` and ``1/n sum_j k_ij (x_i - x_j) / sigma^2``, both [N, n, D].

    A flat kernel, where the median distance is zero, attracts and does not repel.
    """
    x, score = accumulate(particles), accumulate(score)
    count = x.shape[1]
    # One particle against all at a time: differences keep their digits, and nothing has n x n x D elements.
    squared = torch.stack([(x - x[:, j, None]).square().sum(2) for j in range(count)], dim=2)
    if sigma is None:
        rows, columns = torch.triu_indices(count, count, 1, device=x.device)
        pairs = squared[:, rows, columns]
        median = pairs.median(1).values if count > 1 else squared[:, 0, 0]
        precision = torch.where(median > 0, 2 * math.log(count + 1) / median, 0.0)[:, None, None]
    else:
        precision = torch.full_like(squared[:, :1, :1], sigma**-2)
    kernel = (squared * precision / -2).exp()
    weights = kernel * precision
    repulsion = torch.stack([(weights[:, i, :, None] * (x[:, i, None] - x)).sum(1) for i in range(count)], dim=1)
    return kernel @ score / count, repulsion / count
