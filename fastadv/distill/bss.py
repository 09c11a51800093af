"""Distillation with boundary supporting samples: BSS."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import count
from fastadv.attacks.methods.bss import BSS as BoundaryAscent
from fastadv.attacks.methods.bss_base_samples import bss_candidates, bss_targets
from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.features import Features, attacked_as, observe
from fastadv.distill.parts.share_of_training import share_of_training
from fastadv.distill.parts.teacher import required, teacher_features
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill
from fastadv.ops.layout import aligned


class Boundary(NamedTuple):
    """Samples moved to the teacher's decision boundary.

    places: where in the batch they come from, int64 [M]; chosen: whether the sample there is worth it [M], only these
    have moved; target: the class each was moved to [M]; student, teacher: what the networks show of the moved samples.
    """

    places: Tensor
    chosen: Tensor
    target: Tensor
    student: Features
    teacher: Features

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values`` [M] over the samples that are worth it; zero where there are none."""
        return (values * self.chosen).sum() / self.chosen.sum().clamp(min=1)


class BSS(Method):
    """Match the teacher's softened answers on clean images and on samples at its decision boundaries.

    ``L = CE(S(x), y) + a(t) KL(p_T(x) || p_S(x)) + b(t) KL(p_T(x') || p_S(x'))`` with the softmax p of logits over
    temperature T, without the factor T^2, and after the share t of the training

    ``a(t) = kd_start + (kd_end - kd_start) t``,  ``b(t) = bss_weight max(1 - t / bss_end, 0)``.

    The images that both networks classify correctly, ``attack_size`` of them at most, those where the networks differ
    most (:func:`fastadv.attacks.bss_candidates`), are moved towards a class drawn from the teacher's answer
    (:func:`fastadv.attacks.bss_targets`) until they leave their own: x' (:func:`fastadv.attacks.bss`). The clean terms
    are means over the batch, the boundary term is one over the images that were moved. The student sees x' in a forward
    of its own, of the same size at each step: where fewer images are worth it, clean ones that weigh nothing fill up,
    which a BatchNorm in train mode sees. Once b is zero there is no attack.

    The published loss has cross-entropies in place of the divergences: the same gradients, the values larger by the
    entropy of the teacher's answer. It attacks images normalised by a deviation of about 0.2 with step size 0.3; in
    pixels that is 0.06.

    Args:
        temperature: T > 0.
        kd_start, kd_end: a(0) and a(1).
        bss_weight: b(0).
        bss_end: the share of training from which b is zero.
        attack_size: how many images of a batch, or of each part of it that is computed by itself, are attacked; the
            published batch has 256.
        steps, step_size: of the attack.
        stop_early: end it once no image is left to move, see :func:`fastadv.attacks.bss`; None does so on a CPU, where
            nothing waits for it.

    Terms: "loss"; before their weights "ce", "kd", and "bss", which is zero where there is no attack.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range.

    Source: Heo, Lee, Yun, Choi, "Knowledge distillation with adversarial samples supporting decision boundary", AAAI
    2019, as its released code has it.
    """

    needs_teacher = True
    follows_progress = True
    attacks = True
    smooths_labels = True
    ascent: Callable[..., Tensor]
    # Whether it reads more than logits: only then the networks must have ``with_features``.
    needs_features: bool = False

    def __init__(
        self,
        temperature: float = 3.0,
        *,
        kd_start: float = 4.0,
        kd_end: float = 1.0,
        bss_weight: float = 2.0,
        bss_end: float = 0.75,
        attack_size: int = 64,
        steps: int = 10,
        step_size: float = 0.06,
        stop_early: bool | None = None,
    ) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.kd_start = checks.number("kd_start", kd_start)
        self.kd_end = checks.number("kd_end", kd_end)
        self.bss_weight = checks.not_negative("bss_weight", bss_weight)
        self.bss_end = share_of_training("bss_end", checks.positive("bss_end", bss_end))
        self.attack_size = count("attack_size", attack_size, 1)
        self.steps = count("steps", steps, 1)
        self.step_size = checks.positive("step_size", step_size)
        self.ascent = BoundaryAscent(steps=self.steps, step_size=self.step_size, stop_early=stop_early)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        return self.distil(student, required(self, teacher), batch)[2]

    def distil(self, student: Network, teacher: Network, batch: Batch) -> tuple[Features, Boundary | None, Terms]:
        """Return the student's features of the clean images, the boundary samples if they weigh anything, the terms."""
        clean, taught = self._observe(student, teacher, batch.x)
        ce = batch.cross_entropy(clean.logits)
        kd = self._apart(clean, taught).mean()
        loss = ce + (self.kd_start + (self.kd_end - self.kd_start) * batch.progress_for(self)) * kd
        weight = self.bss_weight * max(1 - batch.progress_for(self) / self.bss_end, 0.0)
        boundary, matching = None, torch.zeros_like(ce)
        if weight > 0:
            boundary = self._draw(student, teacher, clean.logits, taught.logits, batch)
            matching = boundary.mean(self._apart(boundary.student, boundary.teacher))
            loss = loss + weight * matching
        terms = {"loss": loss, "ce": ce.detach(), "kd": kd.detach(), "bss": matching.detach()}
        return clean, boundary, terms

    def _observe(self, student: Network, teacher: Network, x: Tensor) -> tuple[Features, Features]:
        """Return the features of ``x`` in student and teacher."""
        deep = self.needs_features
        return observe("student", student, x, deep=deep), teacher_features(self, teacher, x, deep=deep)

    def _draw(
        self, student: Network, teacher: Network, of_student: Tensor, of_teacher: Tensor, batch: Batch
    ) -> Boundary:
        """Draw the boundary samples, given both networks' logits on the clean images."""
        places, chosen = bss_candidates(of_teacher, of_student.detach(), batch.y, size=self.attack_size)
        known = of_teacher[places]
        # What is not worth it stays where it is: its target is the class it already has.
        target = torch.where(chosen, bss_targets(known, seed=batch.seed_for(self), sample_ids=places), known.argmax(1))
        with attacked_as("teacher"):
            moved = self.ascent(teacher, batch.x[places], target)
        moved = aligned(batch.x, moved.to(batch.x.dtype))[1]
        return Boundary(places, chosen, target, *self._observe(student, teacher, moved))

    def _apart(self, student: Features, teacher: Features) -> Tensor:
        """Return ``KL(p_T || p_S)`` of each image [N], at the temperature and without its square as a factor."""
        softened = kl_distill(student.logits, teacher.logits, temperature=self.temperature, reduction="none")
        return softened / self.temperature**2

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, kd_start={self.kd_start}, kd_end={self.kd_end}, "
            f"bss_weight={self.bss_weight}, bss_end={self.bss_end}, attack_size={self.attack_size}, "
            f"steps={self.steps}, step_size={self.step_size}"
        )
