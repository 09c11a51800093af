"""Training steps as people write them: float32, eager, torch's own losses, every network left as it is.

The opponents of `benchmarks.studies.training_step`, made of those of the suite. As in the published codes, attacks ask
autograd for the gradient by the images alone while the parameters keep requires_grad; `backward` instead calls
`loss.backward()`, as many loops do, which computes the gradients of all parameters too and throws them away.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.opponents import distillation, loops, robust, sampling, steps


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

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.student.train()
        self.teacher.eval()
        loss = self.loss(x, y, self.attack(x, y, self.start(x)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @abc.abstractmethod
    def start(self, x: Tensor) -> Tensor:
        """Starting points of the attack, drawn: [N * copies, ...]."""

    @abc.abstractmethod
    def attack(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """The images [N * copies, ...] that the loss is one of."""

    @abc.abstractmethod
    def loss(self, x: Tensor, y: Tensor, attacked: Tensor) -> Tensor:
        """The loss of a step."""

    @property
    def gradient(self) -> loops.Gradient:
        return self._backward if self.backward else loops.by_images

    def _backward(self, loss: Tensor, x: Tensor) -> Tensor:
        loss.backward()
        assert x.grad is not None
        grad = x.grad.clone()
        self.student.zero_grad()
        self.teacher.zero_grad()
        return grad


@dataclass
class PlainTALD(PlainLoop):
    """KD, and the losses of student and teacher matched on projected particles of the teacher."""

    particles: int = 4

    def start(self, x: Tensor) -> Tensor:
        x0 = x.repeat_interleave(self.particles, 0)
        return steps.random_start_linf(x0, robust.EPS)

    def attack(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        rows = start.unflatten(0, (len(x), self.particles))
        return sampling.particles(self.teacher, x, y, rows, gradient=self.gradient).flatten(0, 1)

    def loss(self, x: Tensor, y: Tensor, attacked: Tensor) -> Tensor:
        return sampling.tald(self.student, self.teacher, x, y, attacked.unflatten(0, (len(x), self.particles)))


@dataclass
class PlainIGDM(PlainLoop):
    """AdaAD with indirect gradient matching, each forward of the published script in its place."""

    def start(self, x: Tensor) -> Tensor:
        return x + 0.001 * torch.randn_like(x)

    def attack(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        return robust.apart(self.student, self.teacher, x, start, self.gradient)

    def loss(self, x: Tensor, y: Tensor, attacked: Tensor) -> Tensor:
        return robust.igdm(self.student, self.teacher, x, attacked, self.progress)


@dataclass
class PlainPGDAT(PlainLoop):
    """Training on PGD's images, found in eval mode."""

    def start(self, x: Tensor) -> Tensor:
        return steps.random_start_linf(x, robust.EPS)

    def attack(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        return robust.pgd(self.student, x, y, start, self.gradient)

    def loss(self, x: Tensor, y: Tensor, attacked: Tensor) -> Tensor:
        return F.cross_entropy(self.student(attacked), y)


@dataclass
class PlainKD(PlainLoop):
    """KD, which attacks nothing."""

    def start(self, x: Tensor) -> Tensor:
        return x

    def attack(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        return x

    def loss(self, x: Tensor, y: Tensor, attacked: Tensor) -> Tensor:
        return distillation.kd(self.student, self.teacher, x, y)
