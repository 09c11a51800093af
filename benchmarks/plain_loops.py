"""Training steps as people write them: float32, eager, torch's own losses, every network left as it is.

The opponents of `benchmarks.training_step`. As in the published codes, attacks ask autograd for the gradient by the
images alone while the parameters keep requires_grad; `backward` instead calls `loss.backward()`, as many loops do,
which computes the gradients of all parameters too and throws them away.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class PlainLoop(abc.ABC):
    """One step: augmented pixels and classes to the loss, the student's parameters updated.

    progress: share of training that is done, for ramps.
    """

    student: nn.Module
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    progress: float = 0.0
    backward: bool = False
    eps: float = 8 / 255

    def step(self, x: Tensor, y: Tensor, start: Tensor | None = None) -> Tensor:
        """start: where the attack starts; None draws it."""
        self.student.train()
        self.teacher.eval()
        loss = self.loss(x, y, start)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @abc.abstractmethod
    def loss(self, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
        """The loss of a step."""

    @abc.abstractmethod
    def attack(self, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
        """The images that it is a loss of."""

    def gradient(self, loss: Tensor, x: Tensor) -> Tensor:
        if not self.backward:
            return torch.autograd.grad(loss, [x])[0]
        loss.backward()
        assert x.grad is not None
        grad = x.grad.clone()
        self.student.zero_grad()
        self.teacher.zero_grad()
        return grad

    def project(self, x: Tensor, x0: Tensor) -> Tensor:
        return torch.clamp(torch.min(torch.max(x, x0 - self.eps), x0 + self.eps), 0, 1).detach()


@dataclass
class PlainTALD(PlainLoop):
    """KD, and the losses of student and teacher matched on projected particles of the teacher."""

    particles: int = 4
    steps: int = 3
    weight: float = 0.01
    temperature: float = 4.0
    alpha: float = 0.9

    def loss(self, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
        moved = self.attack(x, y, start)
        images, classes = torch.cat([moved, x]), torch.cat([y.repeat_interleave(self.particles), y])
        of_student = self.student(images)
        with torch.no_grad():
            of_teacher = self.teacher(images)
        clean = slice(len(moved), None)
        kd = F.kl_div(
            F.log_softmax(of_student[clean] / self.temperature, 1),
            F.softmax(of_teacher[clean] / self.temperature, 1),
            reduction="batchmean",
        )
        base = (1 - self.alpha) * F.cross_entropy(of_student[clean], y) + self.alpha * self.temperature**2 * kd
        losses = (F.cross_entropy(logits, classes, reduction="none") for logits in (of_student, of_teacher))
        return base + self.weight * F.mse_loss(*losses)

    def attack(self, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
        x0, labels = x.repeat_interleave(self.particles, 0), y.repeat_interleave(self.particles)
        step_size = 2.5 * self.eps / self.steps
        if start is None:
            start = (x0 + torch.empty_like(x0).uniform_(-self.eps, self.eps)).clamp(0, 1)
        moved = start
        for _ in range(self.steps):
            moved = moved.detach().requires_grad_()
            loss = F.cross_entropy(self.teacher(moved), labels, reduction="sum")
            score = self.gradient(loss, moved)
            direction = self.stein(moved.detach(), score, x0)
            moved = self.project(moved.detach() + step_size * direction.sign(), x0)
        return moved

    def stein(self, moved: Tensor, score: Tensor, x0: Tensor) -> Tensor:
        """The SVGD direction of each image's particles, with a median bandwidth and the score at equal weight."""
        n = self.particles
        points = (moved - x0).reshape(-1, n, x0[0].numel())
        scores = score.reshape(points.shape)
        difference = points[:, :, None] - points[:, None]
        distance = difference.square().sum(-1)
        pairs = torch.triu_indices(n, n, 1)
        median = distance[:, pairs[0], pairs[1]].sqrt().median(1).values
        variance = (median.square() / (2 * math.log(n + 1))).view(-1, 1, 1)
        kernel = torch.exp(-distance / (2 * variance))
        attraction = kernel @ scores / n
        repulsion = (kernel[..., None] * difference).sum(2) / (n * variance)
        pull, push = (term.square().mean((1, 2), keepdim=True) for term in (attraction, repulsion))
        return (attraction * (push / pull).sqrt() + repulsion).reshape(moved.shape)


@dataclass
class PlainIGDM(PlainLoop):
    """AdaAD with indirect gradient matching, each forward of the published script in its place."""

    step_size: float = 2 / 255
    steps: int = 10
    alpha: float = 1.0
    weight: float = 20.0

    def loss(self, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
        adversarial = self.attack(x, y, start)
        delta = adversarial - x
        with torch.no_grad():
            teacher_plus, teacher_clean, teacher_minus = map(self.teacher, (x + delta, x, x - delta))
        student_plus, student_clean, student_minus = map(self.student, (x + delta, x, x - delta))
        matching = _kl(student_plus - student_minus, teacher_plus - teacher_minus)
        student_adversarial = self.student(adversarial)
        with torch.no_grad():
            teacher_adversarial = self.teacher(adversarial)
        base = self.alpha * _kl(student_adversarial, teacher_adversarial)
        base = base + (1 - self.alpha) * _kl(student_clean, teacher_clean)
        return base + self.weight * self.progress * matching

    def attack(self, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
        self.student.eval()
        moved = x + 0.001 * torch.randn_like(x) if start is None else start
        for _ in range(self.steps):
            moved = moved.detach().requires_grad_()
            loss = F.kl_div(
                F.log_softmax(self.student(moved), 1), F.softmax(self.teacher(moved), 1), reduction="sum"
            )  # fmt: skip
            grad = self.gradient(loss, moved)
            moved = self.project(moved.detach() + self.step_size * grad.sign(), x)
        self.student.train()
        return moved


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
