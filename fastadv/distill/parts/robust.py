"""Robust distillation: an inner maximisation, and a loss of the networks' logits on what it finds: RobustMethod."""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from fastadv.attacks.loop.arguments import as_float32
from fastadv.attacks.methods.pgd import PGD
from fastadv.attacks.model.freeze import freeze
from fastadv.attacks.model.guard import evaluating
from fastadv.attacks.model.networks import KeepMode
from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.features import attacked_as, logits_from
from fastadv.distill.parts.teacher import teacher_logits
from fastadv.ops import checks
from fastadv.ops.layout import aligned

# The published starts next to the image add 0.001 N(0, 1) to each pixel; this is uniform noise of the same deviation.
NEAR = 0.001 * 3**0.5

_ATTACK_MODES = {name: name for name in ("eval", "frozen", "frozen-bfloat16", "train")}


class Views:
    """The clean and the adversarial images of a step, and the networks' logits on them, each computed once when asked.

    The student sees clean and adversarial images in forwards of their own, as in the published codes, so that in train
    mode each batch has its own statistics.

    Attributes:
        student, teacher: the networks.
        x: the clean images [N, ...], in float32 or float64; y: their classes [N].
        adversarial: the images that the attack found, as x.
        progress, seed, index: as in :class:`Batch`; noise belongs to the index, whatever batch an image lands in.
    """

    adversarial: Tensor

    def __init__(self, method: Method, student: Network, teacher: Network | None, batch: Batch) -> None:
        self._method, self._batch = method, batch
        self.student, self.teacher = student, teacher
        self.x, self.y = as_float32(batch.x), batch.y
        self.index = batch.index

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return that of ``logits`` and the batch's labels, see :meth:`Batch.cross_entropy`."""
        return self._batch.cross_entropy(logits)

    def student_logits(self, images: Tensor) -> Tensor:
        """Return the student's logits on ``images``."""
        return logits_from("student", self.student, self.as_input(images))

    def teacher_logits(self, images: Tensor) -> Tensor:
        """Return the teacher's logits on ``images`` in eval mode, without gradient; TypeError without a teacher."""
        return teacher_logits(self._method, self.teacher, self.as_input(images))

    @property
    def progress(self) -> float:
        return self._batch.progress_for(self._method)

    @property
    def seed(self) -> int | Tensor:
        return self._batch.seed_for(self._method)

    @cached_property
    def student_clean(self) -> Tensor:
        return self.student_logits(self.x)

    @cached_property
    def student_adversarial(self) -> Tensor:
        return self.student_logits(self.adversarial)

    @cached_property
    def teacher_clean(self) -> Tensor:
        return self.teacher_logits(self.x)

    @cached_property
    def teacher_adversarial(self) -> Tensor:
        return self.teacher_logits(self.adversarial)

    def as_input(self, images: Tensor) -> Tensor:
        """Return ``images`` in the dtype and layout of the batch, as the networks see them."""
        return aligned(self._batch.x, images.to(self._batch.x.dtype))[1]


class RobustMethod(Method):
    """A method whose loss is a function of the networks' logits on the clean images and on adversarial ones.

    Args:
        eps: linf radius of the attack, in pixels of [0, 1]; at most 1.
        step_size: of its steps, in the same units; not negative.
        steps: how many.
        attack_mode: "eval" attacks the student in eval mode, which leaves no trace in it; "frozen" a copy of it in eval
            mode, made by :func:`fastadv.attacks.freeze` in ``build`` and refreshed before each attack: the same to
            rounding and sooner, in the student's own dtype whatever it trains in under autocast; "frozen-bfloat16" a
            copy in bfloat16, but for the one layer through which images enter; "train" in the mode it is trained in,
            with the statistics of the attacked batch and moving BatchNorm's buffers at each step. There the images of a
            batch act on each other, and the attack climbs the sum of their losses as they are; an image of whose class
            the student is so sure that the others' probability is below 1e-45 has no share in it.
        clean_forward: run the clean images through the student at each step even where no term reads them, as the
            released code of IGDM does, so that BatchNorm's running statistics have their share of them.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name; at a call, a frozen copy before ``build``.
    """

    attacks = True
    ascent: Callable[..., Tensor]
    # Radius of the ball that the attack starts in; None is eps.
    start_eps: float | None = None

    def __init__(
        self, *, eps: float, step_size: float, steps: int, attack_mode: str, clean_forward: bool = False
    ) -> None:
        super().__init__()
        self.eps = checks.not_negative("eps", eps)
        # The attack climbs: where a negative step would descend, there is nothing to be robust against.
        checks.not_negative("step_size", step_size)
        for name, length in (("eps", eps), ("step_size", step_size)):
            if checks.number(name, length) > 1:
                raise ValueError(
                    f"{name} must be at most 1, the width of the box (pixels are in [0, 1], and 8 of 255 levels are "
                    f"8/255), got {length!r}"
                )
        start = None if self.start_eps is None else min(self.start_eps, self.eps)
        self.ascent = PGD(eps=eps, step_size=step_size, steps=steps, start_eps=start)
        self.attack_mode = checks.choice("attack_mode", attack_mode, _ATTACK_MODES)
        self.clean_forward = checks.flag("clean_forward", clean_forward)

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        if self._attacks_copy:
            dtype = torch.bfloat16 if self.attack_mode == "frozen-bfloat16" else None
            with evaluating([student]):
                self.copies = (freeze(student, dtype=dtype),)

    def attack(self, views: Views) -> Tensor:
        """Return adversarial images [N, ...] of ``views``: here those of the student's cross-entropy."""
        return self.ascent(self.attacked(views.student), views.x, views.y, seed=views.seed, sample_ids=views.index)

    @abc.abstractmethod
    def terms_on(self, views: Views) -> Terms:
        """Return the terms of :meth:`forward`, given clean and adversarial images."""

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        return self.terms(self.views(student, teacher, batch))

    def terms(self, views: Views) -> Terms:
        """Return :meth:`terms_on` the views, after which BatchNorm has seen what the method shows it."""
        terms = self.terms_on(views)
        if self.clean_forward:
            with torch.no_grad():
                _ = views.student_clean
        return terms

    def views(self, student: Network, teacher: Network | None, batch: Batch) -> Views:
        """Attack the batch; return its clean and adversarial images."""
        views = Views(self, student, teacher, batch)
        with attacked_as("student"):
            views.adversarial = self.attack(views)
        return views

    def attacked(self, student: Network) -> Network:
        """Return the student as the attack is to see it."""
        if self._attacks_copy:
            return self._refreshed_copy()
        return student if self.attack_mode == "eval" else KeepMode(student)

    @property
    def _attacks_copy(self) -> bool:
        return self.attack_mode.startswith("frozen")

    def _refreshed_copy(self) -> Network:
        if not self.copies:
            raise ValueError(
                f"attack_mode={self.attack_mode!r} needs the copy that build() makes: call it before the first step"
            )
        (copy,) = self.copies
        copy.refresh()
        return copy

    def extra_repr(self) -> str:
        return f"{self.ascent}, attack_mode={self.attack_mode!r}"
