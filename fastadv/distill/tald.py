"""Distillation with a teacher's adversarial local distribution: TALD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from fastadv.attacks.loop.arguments import as_float32, clean_images, count
from fastadv.attacks.loop.ascent import Evaluation
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.methods.svgd import VARIANTS, Stein, particle_stepper, projected_particles, repulsion_ratio
from fastadv.attacks.methods.tald_released import XI, released_particles
from fastadv.distill.kd import KD
from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import attacked_as, observe
from fastadv.distill.parts.teacher import required, teacher_features
from fastadv.ops import checks
from fastadv.ops.layout import aligned
from fastadv.ops.matching import loss_matching

_SAMPLES = {name: name for name in ("svgd", "none", "noise")}


class TALD(Method):
    """Match the student's loss to the teacher's on samples from the teacher's adversarial local distribution.

    ``L = base(x) + weight * mean_i (CE(S(x_i), y_i) - CE(T(x_i), y_i))^2``

    where x_i are n particles of each attacked image, with its label, and the clean images. Student and teacher each see
    [particles; clean images] in one forward, the student in its own mode (its BatchNorm sees both), the teacher in eval
    mode without gradient; the base loss reads the clean rows of that forward, logits or features.

    What the particles are is where the text and the published code part ways; both are here:

    - ``variant="projected"`` (the default) samples what the text defines, p(x'|x, y) proportional to exp(CE(T(x'), y))
      in the ball around x: :func:`fastadv.attacks.svgd` with ``steps`` projected steps on the teacher's cross-entropy.
      It is a reconstruction: radius, sign update and projection are those of the code of its predecessor ALD (AISTATS
      2022); the kernel within one image, its median bandwidth, ``score_scale="rms"`` and 3 steps are this library's.
    - ``variant="released"`` computes what the published code does
      (:func:`fastadv.attacks.methods.tald_released.released_particles`): independent one-step perturbations of l2
      length eps against the change of the teacher's probabilities, without labels. The published setting is
      ``TALD(KD(4.0, 0.9), variant="released", weight=0.01, particles=4, steps=1, eps=5e-4, images=10, xi=10.0,
      bounds=(-2.5, 2.5))`` on normalised images, in batches of 64; read there what pixels in [0, 1] change. At that eps
      the particles are all but the clean images, and in half precision rounding is all that tells them apart: train in
      float32.

    Two controls show what the attack contributes: ``samples="none"``, particles that are copies of the clean images,
    and ``samples="noise"``, particles drawn uniformly from the same ball.

    Args:
        base: loss on the clean images, any :class:`BaseLoss`; None is ``KD()``. Its connectors, memory and warm-up are
            this method's.
        weight: of the matching term. 0.01 is what the published script for KD sets; the code's own default is 0.1.
        particles: n, how many an image.
        steps: SVGD steps; "released" makes one.
        eps: radius of the ball, in the norm ("released": in l2), in the units of x.
        step_size: None is ``2.5 eps / steps``.
        norm: "linf", "l2" or "l1".
        variant: "projected" or "released".
        samples: "svgd", or one of the controls "none" and "noise".
        images: attack only the first so many images of a batch, or of each part of it that is computed by itself (the
            published code: 10 of 64); None attacks all.
        score_scale, bandwidth, update, bounds: see :func:`fastadv.attacks.svgd`.
        clean: whether the clean images are part of the matching term, as in the published code.
        xi: finite-difference radius of "released", in the units of x.

    Terms: "loss"; the base loss by its name, such as "kd"; "tald", the matching term before its weight; and where there
    are projected SVGD steps "repulsion": the median over images of :func:`fastadv.attacks.repulsion_ratio` at the last
    of them, how many times stronger particles repel than the score attracts them before ``score_scale`` weighs them.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: TALD (teacher adversarial local distribution, WACV 2023): its abstract and its published code.
    """

    needs_teacher = True
    attacks = True
    default_base = KD

    def __init__(
        self,
        base: BaseLoss | None = None,
        *,
        weight: float = 0.01,
        particles: int = 4,
        steps: int = 3,
        eps: float = 8 / 255,
        step_size: float | None = None,
        norm: str = "linf",
        variant: str = "projected",
        samples: str = "svgd",
        images: int | None = None,
        score_scale: float | str = "rms",
        bandwidth: float | str = "median",
        update: str = "sign",
        bounds: tuple[float, float] | None = (0.0, 1.0),
        clean: bool = True,
        xi: float = XI,
    ) -> None:
        super().__init__()
        if base is not None and not isinstance(base, BaseLoss):
            raise TypeError(f"base must be a base loss such as KD, got {type(base).__name__}")
        self.base = self.default_base() if base is None else base
        self.warm_up_epochs = self.base.warm_up_epochs
        self.weight = checks.number("weight", weight)
        self.particles = count("particles", particles, 1)
        self.steps = count("steps", steps, 1)
        self.eps = checks.not_negative("eps", eps)
        self.step_size = step_size
        self.norm = checks.choice("norm", norm, {name: name for name in checks.NORMS})
        self.variant = checks.choice("variant", variant, VARIANTS)
        self.samples = checks.choice("samples", samples, _SAMPLES)
        self.images = None if images is None else count("images", images, 1)
        self.score_scale = score_scale
        self.bandwidth = bandwidth
        self.update = update
        self.bounds = bounds
        checks.box(bounds)
        self.clean = checks.flag("clean", clean)
        self.xi = checks.positive("xi", xi)
        self.needs_float32 = self.variant == "released" and self.samples != "none"
        if self.samples == "svgd":
            self.ascent = self._released() if self.variant == "released" else self._projected()

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        x, y = batch.x, batch.y
        attacked, labels = x[: self.images], y[: self.images]
        seed = 0 if self.samples == "none" else batch.seed_for(self)
        ids = None if batch.index is None else batch.index[: self.images]
        particles, repulsion = self._sample(required(self, teacher), attacked, labels, seed, ids)
        moved = aligned(x, particles.flatten(0, 1).to(x.dtype))[1]
        images = aligned(x, torch.cat((moved, x)))[1]
        classes = torch.cat((repeat_rows(labels, self.particles), y))
        deep = self.base.needs_features
        of_student = observe("student", student, images, deep=deep)
        of_teacher = teacher_features(self, teacher, images, deep=deep)

        unmoved = slice(len(moved), None)
        base = self.base.on_features(of_student.of_rows(unmoved), of_teacher.of_rows(unmoved), batch)
        matched = slice(None if self.clean else len(moved))
        matching = loss_matching(of_student.logits[matched], of_teacher.logits[matched], classes[matched])
        terms = {"loss": base + self.weight * matching, self.base.term: base.detach(), "tald": matching.detach()}
        return terms if repulsion is None else {**terms, "repulsion": repulsion}

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        self.base.build(student, teacher, x, images=images)

    def start_epoch(self, student: nn.Module) -> None:
        self.base.start_epoch(student)

    def own_parameters(self) -> Iterator[nn.Parameter]:
        return self.base.own_parameters()

    def warm_up_parameters(self) -> Iterator[nn.Parameter]:
        return self.base.warm_up_parameters()

    def warm_up_terms(self, teacher: Network | None, batch: Batch) -> Terms:
        return self.base.warm_up_terms(teacher, batch)

    def draw(self, teacher: Network, x: Tensor, y: Tensor, *, seed: int | Tensor) -> Tensor:
        """Draw the particles [N, n, ...] of every image of ``x`` [N, ...] with classes ``y`` [N]."""
        return self._sample(teacher, x, y, seed)[0]

    def _sample(
        self, teacher: Network, x: Tensor, y: Tensor, seed: int | Tensor, ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the particles [N, n, ...]; return them and the ratio that TALD reports, None where there is none."""
        shape = (x.shape[0], self.particles)
        if self.samples == "none":
            return repeat_rows(as_float32(x), self.particles).unflatten(0, shape), None
        if self.samples == "noise":
            ball = self._ball._replace(norm="l2" if self.variant == "released" else self.norm)
            clean = clean_images(x, self.bounds, None)
            return ball.random_rows(clean, self.particles, Noise(seed, ids)).unflatten(0, shape), None
        assert self.ascent is not None
        with attacked_as("teacher"):
            if self.variant == "released":
                return self.ascent(teacher, x, seed=seed, sample_ids=ids), None
            return self.ascent(teacher, x, y, seed=seed, sample_ids=ids)

    def _projected(self) -> Callable[..., tuple[Tensor, Tensor]]:
        stein = Stein(self.bandwidth, self.update, self.score_scale)
        # Refuses here what the attack would refuse only at its first step, which may be hours away.
        step_size = self.eps if self.step_size is None else self.step_size
        particle_stepper(torch.zeros(1, 1), self._ball, stein, step_size)
        return partial(
            _particles_and_repulsion,
            ball=self._ball,
            stein=stein,
            particles=self.particles,
            step_size=self.step_size,
            steps=self.steps,
        )

    def _released(self) -> Callable[..., Tensor]:
        if checks.number_or("bandwidth", self.bandwidth, "median") is not None:
            checks.positive("bandwidth", self.bandwidth)  # type: ignore[arg-type]
        return partial(
            released_particles,
            eps=self.eps,
            particles=self.particles,
            bandwidth=self.bandwidth,
            bounds=self.bounds,
            xi=self.xi,
        )

    @property
    def _ball(self) -> Ball:
        return Ball(self.eps, self.norm, self.bounds)


def _particles_and_repulsion(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    ball: Ball,
    stein: Stein,
    particles: int,
    step_size: float | None,
    steps: int,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the projected particles [N, n, ...], and the median of :func:`repulsion_ratio` at the last step."""
    last: list[Tensor] = []

    def watch(rows: Tensor, found: Evaluation) -> None:
        last[:] = (each.unflatten(0, (len(x), particles)) for each in (rows, found.grad))

    found = projected_particles(
        model,
        x,
        Goal(y),
        ball,
        Noise(seed, sample_ids),
        stein,
        particles=particles,
        step_size=step_size,
        steps=steps,
        watch=watch,
    )
    return found, repulsion_ratio(*last, bandwidth=stein.bandwidth).median()
