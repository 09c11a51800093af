"""Adversarial distillation from a pre-trained twin and from the previous epoch: AIKD."""

from __future__ import annotations

import copy
import sys
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam, Optimizer

from fastadv.attacks.model.guard import evaluating
from fastadv.distill.method import AdversarialMethod, Batch, Network, Terms
from fastadv.distill.parts.building import UninitializedModule
from fastadv.distill.parts.features import logits_from
from fastadv.distill.parts.isolation import frozen_parameters
from fastadv.distill.parts.teacher import teacher_logits
from fastadv.numerics import accumulate
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill

_ADVERSARIAL_LOSSES = {name: name for name in ("bce", "wgan")}
_INPUTS = {"logits": False, "probabilities": True}
_FIRST_EPOCHS = {name: name for name in ("teacher", "drop")}


class _Seen(NamedTuple):
    """Logits of the student's step, [N, C], for the discriminator's step on the same images ``x``."""

    x: Tensor
    student: Tensor
    teacher: Tensor | None


class AIKD(AdversarialMethod):
    """Distillation from a pre-trained twin and from the student's previous epoch, with a discriminator between them.

    ``L = CE(S, y) + alpha T^2 KL(p_P || p_S) + beta progress T^2 KL(p_S' || p_S) + omega L_adv``

    on logits over temperature T, the mean over the batch. P is the teacher: a network of the student's architecture,
    trained before. S' is the student as the previous epoch left it (``start_epoch`` takes the snapshot), frozen and in
    eval mode. L_adv asks the student to be taken for P by a discriminator D of logits, which learns to tell them apart
    after each of the student's steps:

    - ``adversarial_loss="bce"``: ``L_adv = BCE(D(S), 1)``, and D minimises ``BCE(D(P), 1) + BCE(D(S), 0)``;
    - ``adversarial_loss="wgan"``: ``L_adv = -mean D(S)``, and D minimises ``mean D(S) - mean D(P)`` with its parameters
      clipped to [-clip, clip] after each of its steps.

    A reconstruction from the abstract: that there are these three terms is the paper's; their form, weights and
    schedule and the discriminator (:class:`Discriminator`) are this library's choice. The
    ramp of beta is that of PS-KD, by steps where it goes by epochs.

    A term of weight 0 costs no forward. D learns from the logits of the student's own step where it is asked about the
    same images, else from new forwards, the student's in its own mode.

    Args:
        temperature: T > 0.
        alpha: of the deterministic term, the twin's.
        beta: of the progressive term, the previous epoch's, at the end of training.
        omega: of the adversarial term; 0 trains no discriminator.
        first_epoch: the progressive term while there is no previous epoch: "teacher" puts P in its place, "drop" leaves
            it out (and reports 0).
        adversarial_loss: "bce" or "wgan".
        discriminator_input: "logits" or "probabilities".
        clip: of "wgan".
        adversary_lr: of the discriminator's Adam.

    Terms: "loss", "ce", and before their weights "deterministic", "progressive" and "adversarial", where they are. The
    discriminator's: "loss".

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.
        RuntimeError: a step or epoch begins before ``build``.

    Source: Kim et al., "AI-KD: Adversarial learning and implicit regularization for self-knowledge distillation",
    Knowledge-Based Systems 2024 (its abstract).
    """

    smooths_labels = True
    mixes_images = True
    needs_teacher = True
    follows_progress = True
    needs_epochs = True

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 0.8,
        omega: float = 0.1,
        first_epoch: str = "teacher",
        adversarial_loss: str = "bce",
        discriminator_input: str = "logits",
        clip: float = 0.01,
        adversary_lr: float = 1e-4,
    ) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.alpha = checks.not_negative("alpha", alpha)
        self.beta = checks.not_negative("beta", beta)
        self.omega = checks.not_negative("omega", omega)
        self.first_epoch = checks.choice("first_epoch", first_epoch, _FIRST_EPOCHS)
        self.adversarial_loss = checks.choice("adversarial_loss", adversarial_loss, _ADVERSARIAL_LOSSES)
        self.probabilities = checks.choice("discriminator_input", discriminator_input, _INPUTS)
        self.clip = checks.positive("clip", clip)
        self.adversary_lr = checks.positive("adversary_lr", adversary_lr)
        # No loop counts so far: without its term the discriminator is never trained.
        self.adversary_every = 1 if self.omega else sys.maxsize
        self.adversary: nn.Module = UninitializedModule("AIKD")
        self.previous: nn.Module = UninitializedModule("AIKD")
        self._epochs = 0
        self._seen: _Seen | None = None

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        self._epochs, self._seen = 0, None
        with evaluating([student]), torch.no_grad():
            logits = accumulate(logits_from("student", student, x[:1]))
        self.adversary = Discriminator(logits.shape[1], probabilities=self.probabilities).to(logits)
        if self.adversarial_loss == "wgan":
            self._clip()
        if self.beta:
            self.previous = copy.deepcopy(student).eval().requires_grad_(False)

    def start_epoch(self, student: nn.Module) -> None:
        self._epochs += 1
        if self.beta:
            self.previous.load_state_dict(student.state_dict())

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        x = batch.x
        of_student = logits_from("student", student, x)
        in_first_epoch = self._epochs <= 1
        in_its_place = self.beta and in_first_epoch and self.first_epoch == "teacher"
        of_teacher = teacher_logits(self, teacher, x) if self.alpha or in_its_place else None

        loss = batch.cross_entropy(of_student)
        terms = {"ce": loss.detach()}
        if self.alpha:
            deterministic = self._soft_targets(of_student, of_teacher)
            loss = loss + self.alpha * deterministic
            terms["deterministic"] = deterministic.detach()
        if self.beta:
            if in_first_epoch:
                of_previous = of_teacher if in_its_place else None
            else:
                of_previous = teacher_logits(self, self.previous, x)
            progressive = self._soft_targets(of_student, of_previous)
            loss = loss + self.beta * batch.progress_for(self) * progressive
            terms["progressive"] = progressive.detach()
        if self.omega:
            with frozen_parameters([self.adversary]):
                score = self.adversary(of_student)
            adversarial = (softplus(-score) if self.adversarial_loss == "bce" else -score).mean()
            loss = loss + self.omega * adversarial
            terms["adversarial"] = adversarial.detach()
            self._seen = _Seen(x, of_student.detach(), of_teacher)
        return {"loss": loss, **terms}

    def adversary_optimizer(self) -> Optimizer:
        optimizer = Adam(self.adversary.parameters(), lr=self.adversary_lr)
        if self.adversarial_loss == "wgan":
            optimizer.register_step_post_hook(lambda *_: self._clip())
        return optimizer

    def adversary_terms(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        seen, self._seen = self._seen, None
        if seen is None or seen.x is not batch.x:
            with torch.no_grad():
                seen = _Seen(batch.x, logits_from("student", student, batch.x), None)
        of_teacher = teacher_logits(self, teacher, batch.x) if seen.teacher is None else seen.teacher
        scores = self.adversary(torch.cat((accumulate(of_teacher), accumulate(seen.student))))
        real, fake = scores.chunk(2)
        if self.adversarial_loss == "bce":
            return {"loss": softplus(-real).mean() + softplus(fake).mean()}
        return {"loss": fake.mean() - real.mean()}

    def get_extra_state(self) -> Tensor:
        """Return the number of epochs that have begun, for the state_dict."""
        return torch.tensor(self._epochs, device=next(self.parameters(), torch.empty(0)).device)

    def set_extra_state(self, state: Tensor) -> None:
        self._epochs = int(state)

    def _soft_targets(self, student: Tensor, teacher: Tensor | None) -> Tensor:
        """Return T^2 KL(teacher || student), 0 where there is no teacher."""
        if teacher is None:
            return accumulate(student).new_zeros(())
        return kl_distill(student, teacher, temperature=self.temperature)

    def _clip(self) -> None:
        with torch.no_grad():
            for parameter in self.adversary.parameters():
                parameter.clamp_(-self.clip, self.clip)


class Discriminator(nn.Module):
    """Logits [N, C] to one score a sample, [N], high for the pre-trained network, in the precision of losses.

    Linear layers of 256, 64 and 1 outputs, with LeakyReLU of slope 0.2 between.

    probabilities: see the softmax of the logits in their place.
    """

    def __init__(self, classes: int, *, probabilities: bool = False) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.layers = nn.Sequential(
            nn.Linear(classes, 256), nn.LeakyReLU(0.2), nn.Linear(256, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def forward(self, logits: Tensor) -> Tensor:
        logits = accumulate(logits)
        return accumulate(self.layers(logits.softmax(1) if self.probabilities else logits).squeeze(1))
