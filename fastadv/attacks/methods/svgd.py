"""Samples of the adversarial local distribution by Stein variational gradient descent: svgd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import count, master, step_count, step_length
from fastadv.attacks.loop.ascent import Watch, ascend
from fastadv.attacks.loop.objective import Loss, Objective
from fastadv.attacks.loop.starts import random_rows
from fastadv.attacks.methods.tald_released import released_particles
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.ops import checks
from fastadv.ops.svgd import svgd_stepper
from fastadv.reference.svgd import stein_terms

VARIANTS = {name: name for name in ("projected", "released")}


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
) -> Tensor:
    """Particles drawn from ``p(x'|x, y)``, proportional to ``exp(loss(model(x'), y))`` in the ball around x.

    ``variant="projected"``: the particles of each image start uniform in the ball and follow :func:`fastadv.svgd_step`,
    whose kernel joins no two images; the score is the gradient of the loss at each particle. The model sees
    [N * particles, ...], particle j of image i in row ``i * particles + j``. Nothing of the caller's changes, see
    :func:`pgd`.

    ``variant="released"``: what the published code of TALD computes instead, see
    :func:`fastadv.attacks.methods.tald_released.released_particles`. It takes eps (an l2 radius), particles, bandwidth
    (a float; "median" is its own rule), bounds, seed and sample_ids. It is label-free, makes one step whatever
    ``steps`` (an int, 1 or more) is, and has no use for the other keywords.

    Args:
        model, x, y, steps, norm, loss, reference, bounds, seed, sample_ids: as for :func:`pgd`.
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
        return released_particles(
            model,
            x,
            eps=eps,
            particles=particles,
            bandwidth=bandwidth,
            bounds=bounds,
            seed=seed,
            sample_ids=sample_ids,
        )
    return projected_particles(
        model,
        x,
        y,
        eps=eps,
        step_size=step_size,
        steps=steps,
        particles=particles,
        norm=norm,
        loss=loss,
        reference=reference,
        bandwidth=bandwidth,
        update=update,
        score_scale=score_scale,
        bounds=bounds,
        seed=seed,
        sample_ids=sample_ids,
    )


def projected_particles(
    model: Network | Sequence[Network],
    x: Tensor,
    y: Tensor | None,
    *,
    eps: float | Tensor,
    step_size: float | Tensor | None,
    steps: int | Tensor,
    particles: int,
    norm: str,
    bandwidth: float | str,
    update: str,
    score_scale: float | str,
    bounds: tuple[float, float] | None,
    seed: int | Tensor | None,
    sample_ids: Tensor | None = None,
    loss: Loss = "ce",
    reference: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """:func:`svgd` with ``variant="projected"``; ``watch`` sees each (rows, values, score) before its step."""
    networks = Networks(model)
    x = master(x).contiguous()  # svgd_step works on contiguous particles, whatever comes in
    schedule = step_count(steps, x)
    step_size = step_length(x, eps, step_size, schedule)
    shape = (x.shape[0], count("particles", particles, 1))
    move = svgd_stepper(
        x,
        eps=eps,
        step_size=step_size,
        norm=norm,
        bounds=bounds,
        bandwidth=bandwidth,
        update=update,
        score_scale=score_scale,
    )

    def step(rows: Tensor, score: Tensor) -> Tensor:
        return move(rows.unflatten(0, shape), score.unflatten(0, shape)).flatten(0, 1)

    with no_trace(networks.members):
        start = random_particles(
            x, eps=eps, particles=particles, norm=norm, bounds=bounds, seed=seed, sample_ids=sample_ids
        )
        objective = Objective(networks, x, y, loss=loss, reference=reference, copies=particles)
        rows = ascend(objective, start.flatten(0, 1), step, schedule.of_copies(particles), watch=watch)
        return rows.unflatten(0, shape)


def random_particles(
    x: Tensor,
    *,
    eps: float | Tensor,
    particles: int,
    norm: str,
    bounds: tuple[float, float] | None,
    seed: int | Tensor | None,
    sample_ids: Tensor | None = None,
) -> Tensor:
    """Where the particles start: [N, particles, ...], uniform in the ball around each image of ``x`` [N, ...]."""
    checks.radius("eps", eps, x)
    start = random_rows(x, particles, eps=eps, norm=norm, bounds=bounds, seed=seed, sample_ids=sample_ids)
    return start.unflatten(0, (x.shape[0], particles))


def repulsion_ratio(particles: Tensor, score: Tensor, *, bandwidth: float | str = "median") -> Tensor:
    """How many times stronger the particles of an image repel than the score attracts them, at score scale 1: [N].

    ``rms(1/n sum_j k_ij (x_i - x_j) / sigma^2) / rms(1/n sum_j k_ij score_j)``, both over particles and elements.
    Zero where nothing repels, infinite where only the score is zero.

    Args:
        particles: [N, n, ...], floating point.
        score: gradient of the loss at each particle, of the same shape.
        bandwidth: see :func:`fastadv.svgd_step`.

    Raises:
        TypeError: particles or score are no floating-point tensors.
        ValueError: their shapes or devices differ, bandwidth is an unknown word.
    """
    checks.samples("particles", particles)
    checks.floating("score", score)
    checks.same("score", score, "particles", particles)
    checks.number_or("bandwidth", bandwidth, "median")
    # Only differences count; taken from one of the particles they are small numbers, which keep their digits.
    offsets = (particles - particles[:, :1]).flatten(2)
    attraction, repulsion = stein_terms(offsets, score.flatten(2), bandwidth)
    pull, push = (term.square().mean((1, 2)) for term in (attraction, repulsion))
    return torch.where(push == 0, push, push / pull).sqrt()
