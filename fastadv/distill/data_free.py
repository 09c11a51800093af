"""Distillation without training images: DataFree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim import Adam, Optimizer

from fastadv.attacks.loop.arguments import count
from fastadv.attacks.model.guard import evaluating
from fastadv.distill.method import AdversarialMethod, Batch, Network, Terms
from fastadv.distill.parts import noise
from fastadv.distill.parts.building import UninitializedModule, example_features
from fastadv.distill.parts.connectors import connector
from fastadv.distill.parts.features import Features, observe
from fastadv.distill.parts.generator import ImageGenerator
from fastadv.distill.parts.isolation import frozen_parameters
from fastadv.distill.parts.teacher import required, teacher_features
from fastadv.numerics import accumulate
from fastadv.ops import checks
from fastadv.ops.matching import activation_boundary_loss
from fastadv.ops.mix import mix

_TARGETS = {name: name for name in ("mixed", "teacher")}
_GENERATOR_LOSSES = {name: name for name in ("linear", "log")}

# The streams of a step's random numbers.
_STUDENT, _GENERATOR, _SHARES = range(3)

# What RepDistiller multiplies the activation boundary loss by, beside each layer's weight.
_BOUNDARY_SCALE = 3 / 1000


class DataFree(AdversarialMethod):
    """Data-free adversarial distillation: a generator seeks images on which student and teacher differ.

    ``D(z) = mean over images and classes |T(G(z)) - S(G(z))|``, on logits, z standard normal. The student's loss is

    ``L = D(z) + a L_VI + b (1 - progress) L_act``

    - L_VI, virtual interpolation: ``mean |S(x~) - y~|`` with ``x~ = lam x_i + (1 - lam) x_j`` between two generated
      images, lam from Beta(alpha, alpha) an image, and ``y~ = lam T(x_i) + (1 - lam) T(x_j)``, or ``y~ = T(x~)`` where
      ``interpolation_target`` is "teacher".
    - L_act, activation regularisation: ``3/1000 sum_l 2^(l - L + 1) AB_l``, l = 0 ... L - 1, with AB_l
      :func:`fastadv.activation_boundary_loss` (a sum over neurons, the mean over images) of the l-th pre-activations;
      the student's pass a connector where their shape is not the teacher's. Networks of different depth are paired from
      the last stage backwards.

    and the generator's, once every ``adversary_every`` student steps, ``-D(z)``, or ``-log(1 + D(z))`` where
    ``generator_loss`` is "log"; with ``activation_in_generator`` less ``b (1 - progress) L_act``, so that it seeks
    images on other sides of activation boundaries too.

    With ``interpolation_weight`` and ``activation_weight`` 0 this is DFAD, from its published code. The two terms are a
    reconstruction from the abstract of Qu et al.: weights, ramp, layers, alpha and targets are this library's choice.

    No training image is read: of a batch only its length and seed count, of the example in ``build`` its shape. The
    student sees generated and interpolated images in one forward, so that its BatchNorm sees both; the teacher, in eval
    mode, none but those it is asked about. As published, student and generator stay in the modes they are trained in
    during each other's steps, and their BatchNorm statistics follow.

    Args:
        mean, std: of the pixels that the networks were made for, a float or one a channel, see
            :class:`fastadv.distill.parts.generator.ImageGenerator`.
        latent, width: of the generator; published: 256 (for digits 100) and 64.
        interpolation_weight: a; 0 leaves the term and its forward out.
        interpolation_alpha: alpha > 0.
        interpolation_target: "mixed" or "teacher".
        activation_weight: b; 0 leaves the term out, and networks need no features.
        activation_margin: of :func:`fastadv.activation_boundary_loss`.
        activation_in_generator: whether the generator's loss has the activation term.
        generator_loss: "linear" or "log".
        adversary_every: student steps for one of the generator; published: 5.
        adversary_lr: of the generator's Adam; published: 1e-3.

    Terms: "loss"; "discrepancy", D; "interpolation" and "activation", L_VI and L_act before their weights, where they
    are. The generator's: "loss" and "discrepancy".

    Raises:
        TypeError: an argument is of the wrong type; a network has no features where they are needed.
        ValueError: an argument is out of range or an unknown name; ``build`` gets images that are not [N, C, H, W] with
            H and W multiples of 4, another number of channels than mean or std, or networks whose maps no connector
            joins.
        RuntimeError: a step before ``build``.

    Source: Fang et al., "Data-free adversarial distillation", 2019, and its published code; Qu, Wang, Xiao, "Enhancing
    data-free adversarial distillation with activation regularization and virtual interpolation", 2021 (its abstract).
    """

    needs_teacher = True
    follows_progress = True
    needs_images = False

    def __init__(
        self,
        *,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.25,
        latent: int = 256,
        width: int = 64,
        interpolation_weight: float = 1.0,
        interpolation_alpha: float = 1.0,
        interpolation_target: str = "mixed",
        activation_weight: float = 1.0,
        activation_margin: float = 1.0,
        activation_in_generator: bool = False,
        generator_loss: str = "linear",
        adversary_every: int = 5,
        adversary_lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.mean = _channels("mean", mean)
        self.std = _channels("std", std)
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {std!r}")
        self.latent = count("latent", latent, 1)
        self.width = count("width", width, 1)
        self.interpolation_weight = checks.not_negative("interpolation_weight", interpolation_weight)
        self.interpolation_alpha = checks.positive("interpolation_alpha", interpolation_alpha)
        self.interpolation_target = checks.choice("interpolation_target", interpolation_target, _TARGETS)
        self.activation_weight = checks.not_negative("activation_weight", activation_weight)
        self.activation_margin = checks.not_negative("activation_margin", activation_margin)
        self.activation_in_generator = checks.flag("activation_in_generator", activation_in_generator)
        self.generator_loss = checks.choice("generator_loss", generator_loss, _GENERATOR_LOSSES)
        self.adversary_every = count("adversary_every", adversary_every, 1)
        self.adversary_lr = checks.positive("adversary_lr", adversary_lr)
        self.adversary: nn.Module = UninitializedModule("DataFree")
        self.connectors = nn.ModuleList()

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        like = next(student.parameters())
        self.adversary = ImageGenerator(
            tuple(x.shape[1:]), latent=self.latent, width=self.width, mean=self.mean, std=self.std
        ).to(like)
        if not self.activation_weight:
            return
        blank = like.new_zeros(1, *x.shape[1:])
        self.connectors = nn.ModuleList(
            connector(own, goal) for own, goal in _matched(*example_features(self, student, teacher, blank))
        ).to(like)

    def draw(self, images: int, *, seed: int | Tensor) -> Tensor:
        """Draw ``images`` images [images, C, H, W] of the generator as it is: those of a student's step."""
        with torch.no_grad():
            return self._generated(images, seed, _STUDENT)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        images = len(batch.x)
        seed = batch.seed_for(self)
        x = self.draw(images, seed=seed)
        rows = x
        if self.interpolation_weight:
            share = noise.symmetric_beta(
                images, self.interpolation_alpha, seed=batch.seed_for(self), stream=_SHARES, like=x
            )
            # The images are drawn independently: a neighbour is as good as a random partner.
            partner = torch.arange(images, device=x.device).roll(1)
            rows = torch.cat((x, mix(x, share, partner)))
        deep, asked = self.activation_weight > 0, rows if self.interpolation_target == "teacher" else x
        of_student = observe("student", student, rows, deep=deep)
        of_teacher = teacher_features(self, teacher, asked, deep=deep)

        on_generated = of_student.of_rows(slice(images)), of_teacher.of_rows(slice(images))
        loss = _discrepancy(*on_generated)
        terms = {"discrepancy": loss.detach()}
        if self.interpolation_weight:
            by_teacher = self.interpolation_target == "teacher"
            virtual = of_teacher.logits[images:] if by_teacher else mix(accumulate(of_teacher.logits), share, partner)
            interpolation = _distance(of_student.logits[images:], virtual)
            loss = loss + self.interpolation_weight * interpolation
            terms["interpolation"] = interpolation.detach()
        if self.activation_weight:
            activation = self._activation(*on_generated)
            loss = loss + self.activation_weight * (1 - batch.progress_for(self)) * activation
            terms["activation"] = activation.detach()
        return {"loss": loss, **terms}

    def adversary_optimizer(self) -> Optimizer:
        return Adam(self.adversary.parameters(), lr=self.adversary_lr)

    def adversary_terms(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        teacher = required(self, teacher)
        x = self._generated(len(batch.x), batch.seed_for(self), _GENERATOR)
        with evaluating([teacher]), frozen_parameters([student, teacher, self.connectors]):
            deep = self.activation_weight > 0 and self.activation_in_generator
            responses = observe("student", student, x, deep=deep), observe("teacher", teacher, x, deep=deep)
            discrepancy = _discrepancy(*responses)
            loss = -discrepancy.log1p() if self.generator_loss == "log" else -discrepancy
            if deep:
                loss = loss - self.activation_weight * (1 - batch.progress_for(self)) * self._activation(*responses)
        return {"loss": loss, "discrepancy": discrepancy.detach()}

    def _generated(self, images: int, seed: int | Tensor, stream: int) -> Tensor:
        like = next(self.adversary.parameters(), torch.empty(0))
        z = noise.normal(images, self.latent, seed=seed, stream=stream, like=like)
        return self.adversary(z.to(like.dtype))

    def _activation(self, student: Features, teacher: Features) -> Tensor:
        losses = [
            activation_boundary_loss(join(own), goal.detach(), margin=self.activation_margin)
            for join, (own, goal) in zip(self.connectors, _matched(student, teacher), strict=True)
        ]
        deepest_first = enumerate(reversed(losses))
        return _BOUNDARY_SCALE * torch.stack([loss / 2**depth for depth, loss in deepest_first]).sum()


def _matched(student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
    """Return the pre-activations of the stages that both networks have, counted from the last."""
    stages = min(len(student.preactivations), len(teacher.preactivations))
    return list(zip(student.preactivations[-stages:], teacher.preactivations[-stages:], strict=True))


def _discrepancy(student: Features, teacher: Features) -> Tensor:
    return _distance(student.logits, teacher.logits)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    if one.shape != other.shape:
        # l1_loss would broadcast them.
        raise ValueError(
            "DataFree: student and teacher must have the same number of classes, "
            f"got {one.shape[-1]} and {other.shape[-1]}"
        )
    return l1_loss(accumulate(one), accumulate(other))


def _channels(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """Return ``value`` as one number a channel, or as one for all."""
    if isinstance(value, int | float):
        return (checks.number(name, value),)
    if isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a float or one a channel, got {value!r}")
    return tuple(checks.number(name, each) for each in value)
