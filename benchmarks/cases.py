"""The registry of cases: what is measured, on which sizes, against which opponent, and how many bytes it must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastadv
from benchmarks import opponents

EPS, STEP = 8 / 255, 2 / 255
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row. ``build(eager)`` returns the call to time: fastadv's for None, else the opponent's, compiled or not.

    Calls return the tensors that are compared before anything is timed; ``atol`` bounds their difference. ``bytes`` is
    the least traffic of the fused call, each input read once and each output written once, as ``formula`` spells out.
    """

    name: str
    fused: Call
    eager: Callable[..., object]
    arguments: tuple[object, ...]
    bytes: int
    formula: str
    atol: float
    backward: Tensor | None = None

    def opponent(self, function: Callable[..., object]) -> Call:
        """The opponent's call: ``function``, which is ``eager`` or a compiled form of it, on the same inputs."""
        if self.backward is None:
            return lambda: function(*self.arguments)
        return lambda: with_backward(function(*self.arguments), self.backward)


def with_backward(loss: object, x: Tensor | None) -> tuple[Tensor, Tensor]:
    """Backward of ``loss``, and the gradient it left at ``x``."""
    assert isinstance(loss, Tensor)
    assert x is not None
    loss.backward()
    grad, x.grad = x.grad, None
    assert grad is not None
    return loss.detach(), grad


def cases() -> list[Case]:
    """All rows, on inputs drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        _linf(generator, 16),
        _linf(generator, 128),
        _l2(generator, 128),
        _l1(generator, 128),
        _svgd(generator, 128, 4),
    ]
    return rows + _losses(generator, 64, 100)


def _images(generator: torch.Generator, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    x0 = torch.rand(batch, 3, 32, 32, generator=generator)
    x = (x0 + EPS * (2 * torch.rand(x0.shape, generator=generator) - 1)).clamp(0, 1)
    return x, torch.randn(x0.shape, generator=generator), x0


def _linf(generator: torch.Generator, batch: int) -> Case:
    x, grad, x0 = _images(generator, batch)
    return Case(
        name=f"pgd_step linf {batch}x3x32x32",
        fused=lambda: fastadv.pgd_step(x, grad, x0, eps=EPS, step_size=STEP, mode="sequential"),
        eager=opponents.pgd_step_linf,
        arguments=(x, grad, x0, EPS, STEP),
        bytes=4 * 4 * x.numel(),
        formula="4 bytes x (x, grad, x0, result)",
        atol=0.0,
    )


def _l2(generator: torch.Generator, batch: int) -> Case:
    x, grad, x0 = _images(generator, batch)
    return Case(
        name=f"pgd_step l2 {batch}x3x32x32",
        fused=lambda: fastadv.pgd_step(x, grad, x0, eps=0.5, step_size=0.125, norm="l2", mode="sequential"),
        eager=opponents.pgd_step_l2,
        arguments=(x, grad, x0, 0.5, 0.125),
        bytes=4 * 4 * x.numel(),
        formula="4 bytes x (x, grad, x0, result)",
        atol=1e-6,
    )


def _l1(generator: torch.Generator, batch: int) -> Case:
    # Where attacks are after a few steps: on the surface of the ball.
    x0 = _images(generator, batch)[0]
    x = fastadv.project(x0 + 0.05 * torch.randn(x0.shape, generator=generator), x0, eps=12.0, norm="l1")
    grad = torch.randn(x0.shape, generator=generator)
    return Case(
        name=f"pgd_step l1 exact {batch}x3x32x32",
        fused=lambda: fastadv.pgd_step(x, grad, x0, eps=12.0, step_size=2.4, norm="l1"),
        eager=opponents.pgd_step_l1,
        arguments=(x, grad, x0, 12.0, 2.4, 154),
        bytes=4 * 4 * x.numel(),
        formula="4 bytes x (x, grad, x0, result)",
        atol=1e-5,
    )


def _svgd(generator: torch.Generator, batch: int, count: int) -> Case:
    x0 = _images(generator, batch)[0]
    noise = torch.rand(batch, count, *x0.shape[1:], generator=generator)
    particles = (x0.unsqueeze(1) + EPS * (2 * noise - 1)).clamp(0, 1)
    score = torch.randn(particles.shape, generator=generator)
    return Case(
        name=f"svgd_step {batch}x{count}x3072",
        fused=lambda: fastadv.svgd_step(particles, score, x0, eps=EPS, step_size=STEP),
        eager=opponents.svgd_step,
        arguments=(particles, score, x0, EPS, STEP),
        bytes=4 * (3 * particles.numel() + x0.numel()),
        formula="4 bytes x (particles, score, result, x0)",
        # A sign may flip where attraction and repulsion cancel to rounding.
        atol=2.1 * STEP,
    )


def _losses(generator: torch.Generator, batch: int, classes: int) -> list[Case]:
    student = torch.randn(batch, classes, generator=generator, requires_grad=True)
    teacher = torch.randn(batch, classes, generator=generator)
    target = torch.randint(classes, (batch,), generator=generator)
    logits = student.detach()
    size = f"{batch}x{classes}"
    other = torch.randn(batch, classes, generator=generator)
    traffic: dict[str, Any] = {
        "bytes": 4 * 5 * batch * classes,
        "formula": "4 bytes x (student, teacher, stored gradient written and read, gradient)",
        "atol": 1e-5,
        "backward": student,
    }
    return [
        Case(
            name=f"kl_distill {size} forward + backward",
            fused=lambda: with_backward(fastadv.kl_distill(student, teacher, temperature=4.0), student),
            eager=opponents.kl_distill,
            arguments=(student, teacher, 4.0),
            **traffic,
        ),
        Case(
            name=f"kd_loss {size} forward + backward",
            fused=lambda: with_backward(fastadv.kd_loss(student, teacher, target), student),
            eager=opponents.kd_loss,
            arguments=(student, teacher, target, 4.0, 0.9),
            **traffic,
        ),
        Case(
            name=f"dkd_loss {size} forward + backward",
            fused=lambda: with_backward(fastadv.dkd_loss(student, teacher, target), student),
            eager=opponents.dkd_loss,
            arguments=(student, teacher, target, 4.0, 1.0, 8.0),
            **traffic,
        ),
        Case(
            name=f"igdm_loss {size} forward + backward",
            fused=lambda: with_backward(fastadv.igdm_loss(student, other, teacher, other), student),
            eager=opponents.igdm_loss,
            arguments=(student, other, teacher, other),
            **(traffic | {"bytes": traffic["bytes"] + 4 * 2 * batch * classes}),
        ),
        Case(
            name=f"loss_matching {size} forward + backward",
            fused=lambda: with_backward(fastadv.loss_matching(student, teacher, target), student),
            eager=opponents.loss_matching,
            arguments=(student, teacher, target),
            **traffic,
        ),
        Case(
            name=f"attack_loss ce {size} value and gradient",
            fused=lambda: fastadv.attack_loss_value_and_grad(logits, target),
            eager=opponents.cross_entropy_and_gradient,
            arguments=(logits, target),
            bytes=4 * 2 * batch * classes,
            formula="4 bytes x (logits, gradient)",
            atol=1e-5,
        ),
    ]
