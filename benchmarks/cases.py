"""The registry of cases: what is measured, on which sizes, against which opponent, and how many bytes it must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastadv
from benchmarks import opponents

EPS, STEP = 8 / 255, 2 / 255
Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row. ``build(eager)`` returns the call to time: fastadv's for None, else the opponent's, compiled or not.

    Calls return the tensors that are compared before anything is timed; ``atol`` bounds their difference, relative to
    their largest magnitude where that is above 1. ``bytes`` is the least traffic of the fused call, each input read
    once and each output written once, as ``formula`` spells out.
    """

    name: str
    fused: Call
    eager: Callable[..., object]
    arguments: tuple[object, ...]
    bytes: int
    formula: str
    atol: float
    backward: tuple[Tensor, ...] = ()

    def opponent(self, function: Callable[..., object]) -> Call:
        """The opponent's call: ``function``, which is ``eager`` or a compiled form of it, on the same inputs."""
        if not self.backward:
            return lambda: function(*self.arguments)
        return lambda: with_backward(function(*self.arguments), *self.backward)


def with_backward(loss: object, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Backward of ``loss``, and the gradients it left at ``leaves``."""
    assert isinstance(loss, Tensor)
    loss.backward()
    grads = []
    for x in leaves:
        assert x.grad is not None
        grads.append(x.grad)
        x.grad = None
    return loss.detach(), *grads


def cases(device: str = "cpu") -> list[Case]:
    """All rows, on inputs drawn with a fixed seed on ``device``; on a GPU also sizes that fill one."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device(device):
        return _on_a_cpu(generator) + (_on_a_gpu(generator) if device == "cuda" else [])


def _on_a_cpu(generator: torch.Generator) -> list[Case]:
    rows = [_linf(generator, 16), _linf(generator, 128), _l2(generator, 128), _l1(generator, 128)]
    rows += [_momentum(generator, 128), _bss(generator, 128), _mix(generator, 128), _svgd(generator, 128, 4)]
    rows += _losses(generator, 64, 100)
    rows += [*_triplets(generator, 64, 256), _rkd(generator, 64, 256)]
    return rows + _boundaries(generator, (64, 64, 32, 32))


def _on_a_gpu(generator: torch.Generator) -> list[Case]:
    """Several times what the caches hold."""
    rows = [_linf(generator, 8192), _l2(generator, 8192), _l1(generator, 8192), _momentum(generator, 8192)]
    rows += [_svgd(generator, 2048, 4), *_losses(generator, 16384, 1000), *_triplets(generator, 16384, 512)]
    return [*rows, _rkd(generator, 256, 256), *_boundaries(generator, (512, 64, 32, 32))]


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


def _momentum(generator: torch.Generator, batch: int) -> Case:
    x, grad, x0 = _images(generator, batch)
    momentum = torch.randn(x0.shape, generator=generator)
    return Case(
        name=f"momentum_step linf {batch}x3x32x32",
        fused=lambda: fastadv.momentum_step(x, grad, momentum, x0, eps=EPS, step_size=STEP),
        eager=opponents.momentum_step,
        arguments=(x, grad, momentum, x0, EPS, STEP, 1.0),
        bytes=4 * 6 * x.numel(),
        formula="4 bytes x (x, grad, momentum, x0, both results)",
        # A sign may flip where gradient and momentum cancel to rounding.
        atol=2.1 * STEP,
    )


def _bss(generator: torch.Generator, batch: int) -> Case:
    x, grad, _ = _images(generator, batch)
    gap = 3 * torch.rand(batch, generator=generator)
    active = torch.rand(batch, generator=generator) < 0.8
    return Case(
        name=f"bss_step {batch}x3x32x32",
        fused=lambda: fastadv.bss_step(x, grad, gap, active),
        eager=opponents.bss_step,
        arguments=(x, grad, gap, active, 0.3),
        bytes=4 * 3 * x.numel(),
        formula="4 bytes x (x, grad, result)",
        atol=1e-6,
    )


def _mix(generator: torch.Generator, batch: int) -> Case:
    x, _, _ = _images(generator, batch)
    permutation = torch.randperm(batch, generator=generator)
    return Case(
        name=f"mix {batch}x3x32x32",
        fused=lambda: fastadv.mix(x, 0.3, permutation),
        eager=opponents.mix,
        arguments=(x, 0.3, permutation),
        bytes=4 * 2 * x.numel(),
        formula="4 bytes x (x, result)",
        atol=0.0,
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


def _triplets(generator: torch.Generator, batch: int, features: int) -> list[Case]:
    leaves = tuple(torch.randn(batch, features, generator=generator, requires_grad=True) for _ in range(3))
    constants = tuple(x.detach() for x in leaves)
    size = f"{batch}x{features}"
    return [
        Case(
            name=f"triplet_margin_loss {size} forward + backward",
            fused=lambda: with_backward(fastadv.triplet_margin_loss(*leaves), *leaves),
            eager=F.triplet_margin_loss,
            arguments=leaves,
            bytes=4 * 12 * batch * features,
            formula="4 bytes x 3 x (input, stored gradient written and read, gradient)",
            atol=1e-5,
            backward=leaves,
        ),
        Case(
            name=f"triplet_margin_loss {size} value and gradients",
            fused=lambda: fastadv.triplet_margin_loss_value_and_grad(*constants),
            eager=opponents.triplet_margin_loss_and_gradients,
            arguments=constants,
            bytes=4 * 6 * batch * features,
            formula="4 bytes x 3 x (input, gradient)",
            atol=1e-5,
        ),
    ]


def _boundaries(generator: torch.Generator, shape: tuple[int, ...]) -> list[Case]:
    student = torch.randn(shape, generator=generator, requires_grad=True)
    teacher, constant = torch.randn(shape, generator=generator), student.detach()
    size = "x".join(map(str, shape))

    def value_and_grad() -> tuple[Tensor, Tensor]:
        value, grad = fastadv.activation_boundary_loss_value_and_grad(constant, teacher)
        return value.sum(), grad

    return [
        Case(
            name=f"activation_boundary {size} fwd + bwd",
            fused=lambda: with_backward(fastadv.activation_boundary_loss(student, teacher), student),
            eager=opponents.activation_boundary_loss,
            arguments=(student, teacher, 1.0),
            bytes=4 * 5 * student.numel(),
            formula="4 bytes x (student, teacher, stored gradient written and read, gradient)",
            atol=1e-5,
            backward=(student,),
        ),
        Case(
            name=f"activation_boundary {size} value and grad",
            fused=value_and_grad,
            eager=opponents.activation_boundary_sum_and_gradient,
            arguments=(constant, teacher, 1.0),
            bytes=4 * 3 * student.numel(),
            formula="4 bytes x (student, teacher, gradient)",
            atol=1e-5,
        ),
    ]


def _losses(generator: torch.Generator, batch: int, classes: int) -> list[Case]:
    student = torch.randn(batch, classes, generator=generator, requires_grad=True)
    teacher = torch.randn(batch, classes, generator=generator)
    target = torch.randint(classes, (batch,), generator=generator)
    aim = (target + 1) % classes
    logits = student.detach()
    size = f"{batch}x{classes}"
    other = torch.randn(batch, classes, generator=generator)
    traffic: dict[str, Any] = {
        "bytes": 4 * 5 * batch * classes,
        "formula": "4 bytes x (student, teacher, stored gradient written and read, gradient)",
        "atol": 1e-5,
        "backward": (student,),
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
        *_values_and_gradients(student.detach(), teacher, other, target),
        _attack(
            f"ce {size}",
            lambda: fastadv.attack_loss_value_and_grad(logits, target),
            opponents.cross_entropy_and_gradient,
            (logits, target),
        ),
        _attack(
            f"cw {size}",
            lambda: fastadv.attack_loss_value_and_grad(logits, target, kind="cw"),
            opponents.cw_and_gradient,
            (logits, target),
        ),
        _attack(
            f"dlr {size}",
            lambda: fastadv.attack_loss_value_and_grad(logits, target, kind="dlr"),
            opponents.dlr_and_gradient,
            (logits, target),
        ),
        _attack(
            f"targeted dlr {size}",
            lambda: fastadv.attack_loss_value_and_grad(logits, aim, kind="dlr", reference=target, targeted=True),
            opponents.targeted_dlr_and_gradient,
            (logits, aim, target),
            # The published formula adds two logits before it subtracts, and divides by what is left.
            atol=1e-4,
        ),
    ]


def _values_and_gradients(student: Tensor, teacher: Tensor, other: Tensor, target: Tensor) -> list[Case]:
    """The forms without autograd, for loops: the loss of each sample and the gradient of their sum."""

    def case(name: str, fused: Call, arguments: tuple[object, ...], tensors: int = 2) -> Case:
        return Case(
            name=f"{name} {student.shape[0]}x{student.shape[1]} value and gradient",
            fused=fused,
            eager=opponents.with_gradient(getattr(opponents, name), 2 if tensors == 4 else 1),
            arguments=arguments,
            bytes=4 * (tensors + tensors // 2) * student.numel(),
            formula="4 bytes x (the logits, one gradient for the student's)",
            atol=1e-4,
        )

    return [
        case(
            "kl_distill",
            lambda: fastadv.kl_distill_value_and_grad(student, teacher, temperature=4.0)[:2],
            (student, teacher, 4.0),
        ),
        case(
            "kd_loss",
            lambda: fastadv.kd_loss_value_and_grad(student, teacher, target)[:2],
            (student, teacher, target, 4.0, 0.9),
        ),
        case(
            "dkd_loss",
            lambda: fastadv.dkd_loss_value_and_grad(student, teacher, target)[:2],
            (student, teacher, target, 4.0, 1.0, 8.0),
        ),
        case(
            "igdm_loss",
            lambda: fastadv.igdm_loss_value_and_grad(student, other, teacher, other)[:3],
            (student, other, teacher, other),
            tensors=4,
        ),
        case(
            "loss_matching",
            lambda: fastadv.loss_matching_value_and_grad(student, teacher, target)[:2],
            (student, teacher, target),
        ),
    ]


def _attack(
    name: str, fused: Call, eager: Callable[..., object], arguments: tuple[Tensor, ...], atol: float = 1e-5
) -> Case:
    logits = arguments[0]
    return Case(
        name=f"attack_loss {name} value and gradient",
        fused=fused,
        eager=eager,
        arguments=arguments,
        bytes=4 * 2 * logits.numel(),
        formula="4 bytes x (logits, gradient)",
        atol=atol,
    )


def _rkd(generator: torch.Generator, batch: int, features: int) -> Case:
    student = torch.randn(batch, features, generator=generator, requires_grad=True)
    teacher = torch.randn(batch, features, generator=generator)
    return Case(
        name=f"rkd_loss {batch}x{features} forward + backward",
        fused=lambda: with_backward(fastadv.rkd_loss(student, teacher), student),
        eager=opponents.rkd_loss,
        arguments=(student, teacher, 25.0, 50.0),
        bytes=4 * 5 * batch * features,
        formula="4 bytes x (student, teacher, stored gradient written and read, gradient)",
        atol=1e-5,
        backward=(student,),
    )
