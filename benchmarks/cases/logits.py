"""Cases of the losses on logits: with autograd's backward pass, and as value and gradient for loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fastadv
from benchmarks.cases.inputs import generator, normal, size
from benchmarks.opponents import losses, peers
from benchmarks.suite.case import Call, Case, Entry, Sweep, Work, with_backward

CLASSES = (10, 100, 1000, 10_000, 32_000)
BATCHES = (1, 16, 64, 256, 1024, 4096)
USUAL = (64, 100)
OTHER = ((64, 10), (1024, 1000), (64, 32_000))
LARGE = ((16_384, 1000), (512, 128_000))


@dataclass(frozen=True)
class Logits:
    """Inputs of the losses, all [N, C] and targets [N]; ``student`` is a leaf."""

    student: Tensor
    teacher: Tensor
    other: Tensor
    target: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Logits:
        source = generator(device)
        target = torch.randint(shape[1], shape[:1], generator=source, device=device)
        student, teacher, other = (normal(source, *shape).to(dtype) for _ in range(3))
        return cls(student.requires_grad_(), teacher, other, target)


@dataclass(frozen=True)
class Loss:
    """A loss of the registry: both forms, the formula, its arguments, and the operations a class takes."""

    fused: Callable[..., Tensor]
    value_and_grad: Callable[..., tuple[Tensor | None, ...]]
    eager: Callable[..., Tensor]
    inputs: Callable[[Logits], tuple[Tensor, ...]]
    options: dict[str, float]
    operations: int
    what: str


LOSSES = {
    "kl_distill": Loss(
        fastadv.kl_distill,
        fastadv.kl_distill_value_and_grad,
        losses.kl_distill,
        lambda x: (x.student, x.teacher),
        {"temperature": 4.0},
        15,
        "two softmaxes of 5, divergence, gradient of a class",
    ),
    "js_distill": Loss(
        fastadv.js_distill,
        fastadv.js_distill_value_and_grad,
        losses.js_distill,
        lambda x: (x.student, x.teacher),
        {"temperature": 4.0},
        22,
        "two softmaxes of 5, mixture, two divergences, gradient of a class",
    ),
    "kd_loss": Loss(
        fastadv.kd_loss,
        fastadv.kd_loss_value_and_grad,
        losses.kd_loss,
        lambda x: (x.student, x.teacher, x.target),
        {"temperature": 4.0, "alpha": 0.9},
        22,
        "three softmaxes of 5, divergence, gradient of a class",
    ),
    "dkd_loss": Loss(
        fastadv.dkd_loss,
        fastadv.dkd_loss_value_and_grad,
        losses.dkd_loss,
        lambda x: (x.student, x.teacher, x.target),
        {"temperature": 4.0, "alpha": 1.0, "beta": 8.0},
        18,
        "two softmaxes of 5, divergence without the target, gradient of a class",
    ),
    "igdm_loss": Loss(
        fastadv.igdm_loss,
        fastadv.igdm_loss_value_and_grad,
        losses.igdm_loss,
        lambda x: (x.student, x.other, x.teacher, x.other),
        {},
        17,
        "two differences, two softmaxes of 5, divergence, gradient of a class",
    ),
    "loss_matching": Loss(
        fastadv.loss_matching,
        fastadv.loss_matching_value_and_grad,
        losses.loss_matching,
        lambda x: (x.student, x.teacher, x.target),
        {},
        12,
        "two softmaxes of 5, gradient of a class",
    ),
}


def entries() -> Iterator[Entry]:
    for name in LOSSES:
        yield _backward(name, USUAL, chosen=True, sweeps=_sweeps(USUAL) if name == "kl_distill" else ())
        yield _values(name, USUAL, chosen=True)
        for shape in OTHER + LARGE:
            if name != "kl_distill" or shape in LARGE:
                yield _backward(name, shape, large=shape in LARGE)
            yield _values(name, shape, large=shape in LARGE)
        yield _backward(name, USUAL, torch.bfloat16, chosen=name == "kl_distill")
        yield _backward(name, (1024, 1000), torch.bfloat16)
    sweep = {(64, classes) for classes in CLASSES} | {(batch, 100) for batch in BATCHES}
    for shape in sorted((sweep | {(1024, 1000)}) - {USUAL}):
        yield _backward("kl_distill", shape, chosen=True, compiled=shape in OTHER, sweeps=_sweeps(shape))
    for kind in _ATTACKS:
        for shape in (USUAL, *OTHER):
            build = partial(_attack_loss, kind, shape)
            yield Entry(f"attack_loss {kind} {size(shape)} value and gradient", "attack_loss", build, shape == USUAL)


def _sweeps(shape: tuple[int, int]) -> tuple[Sweep, ...]:
    batch, classes = shape
    by_classes = [Sweep("kl_distill, batch 64", "classes", classes)] if batch == USUAL[0] else []
    by_batch = [Sweep("kl_distill, 100 classes", "batch", batch)] if classes == USUAL[1] else []
    return *by_classes, *by_batch


def _backward(
    name: str,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    *,
    chosen: bool = False,
    compiled: bool = True,
    sweeps: tuple[Sweep, ...] = (),
    large: bool = False,
) -> Entry:
    build = partial(_with_backward, LOSSES[name], shape, dtype)
    return Entry(f"{name} {size(shape, dtype)} forward + backward", name, build, chosen, compiled, sweeps, large)


def _values(name: str, shape: tuple[int, int], *, chosen: bool = False, large: bool = False) -> Entry:
    build = partial(_value_and_gradient, LOSSES[name], shape)
    return Entry(f"{name} {size(shape)} value and gradient", name, build, chosen, large=large)


def _with_backward(loss: Loss, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Case:
    drawn = Logits.draw(shape, dtype, device)
    inputs = loss.inputs(drawn)
    opponents: dict[str, Callable[[], Call]] = {}
    if loss.fused in (fastadv.kl_distill, fastadv.js_distill):
        opponents["Liger"] = partial(_liger, "kl" if loss.fused is fastadv.kl_distill else "js", drawn)
    return Case(
        fused=lambda: with_backward(loss.fused(*inputs, **loss.options), drawn.student),
        eager=loss.eager,
        arguments=(*inputs, *loss.options.values()),
        work=_work(loss, inputs, drawn.student),
        atol=1e-5 if dtype == torch.float32 else 2**-8,
        opponents_atol=1e-5 if dtype == torch.float32 else 0.1,
        backward=(drawn.student,),
        opponents=opponents,
    )


def _liger(kind: str, drawn: Logits) -> Call:
    loss = peers.liger(kind, drawn.student.device)
    return lambda: with_backward(loss(drawn.student, drawn.teacher, 4.0), drawn.student)


def _value_and_gradient(loss: Loss, shape: tuple[int, int], device: torch.device) -> Case:
    drawn = Logits.draw(shape, torch.float32, device)
    inputs = tuple(x.detach() for x in loss.inputs(drawn))
    arguments = (*inputs, *loss.options.values())
    leaves = 2 if loss.fused is fastadv.igdm_loss else 1

    def value_and_grad() -> tuple[Tensor | None, ...]:
        return tuple(x for x in loss.value_and_grad(*inputs, **loss.options) if x is not None)

    return Case(
        fused=value_and_grad,
        eager=losses.with_gradient(loss.eager, leaves),
        arguments=arguments,
        work=_work(loss, inputs, *inputs[:leaves]),
        atol=1e-4,
        opponents={"compiled loss, autograd": partial(_compiled_loss, loss, leaves, arguments)},
    )


def _compiled_loss(loss: Loss, leaves: int, arguments: tuple[object, ...]) -> Call:
    """The loss alone compiled, as training loops do it; the gradients asked of autograd outside of its graph."""
    return partial(losses.with_gradient(torch.compile(loss.eager), leaves), *arguments)


def _work(loss: Loss, inputs: tuple[Tensor, ...], *leaves: Tensor) -> Work:
    logits = {f"logits {i}": x for i, x in enumerate((x for x in inputs if x.dim() == 2), 1)}
    gradients = {f"gradient {i}": x for i, x in enumerate(leaves, 1)}
    return Work.of(logits | gradients, loss.operations, inputs[0].numel(), loss.what)


@dataclass(frozen=True)
class _Attack:
    """A kind of attack_loss: its options from logits, the formula and its arguments."""

    options: Callable[[Logits], dict[str, Any]]
    eager: Callable[..., object]
    arguments: Callable[[Logits], tuple[Tensor, ...]]
    operations: int
    atol: float = 1e-5


_ATTACKS = {
    "ce": _Attack(
        lambda x: {"target": x.target},
        losses.cross_entropy_and_gradient,
        lambda x: (x.student.detach(), x.target),
        7,
    ),
    "kl": _Attack(
        lambda x: {"kind": "kl", "reference": x.teacher},
        losses.with_gradient(partial(losses.kl_distill, temperature=1.0)),
        lambda x: (x.student.detach(), x.teacher),
        15,
        1e-4,
    ),
    "cw": _Attack(
        lambda x: {"target": x.target, "kind": "cw"},
        losses.cw_and_gradient,
        lambda x: (x.student.detach(), x.target),
        3,
    ),
    "dlr": _Attack(
        lambda x: {"target": x.target, "kind": "dlr"},
        losses.dlr_and_gradient,
        lambda x: (x.student.detach(), x.target),
        5,
    ),
    "targeted dlr": _Attack(
        lambda x: {"target": _next(x), "kind": "dlr", "reference": x.target, "targeted": True},
        losses.targeted_dlr_and_gradient,
        lambda x: (x.student.detach(), _next(x), x.target),
        6,
        # The published formula adds two logits before it subtracts, and divides by what is left.
        1e-4,
    ),
}


def _next(x: Logits) -> Tensor:
    return (x.target + 1) % x.student.shape[1]


def _attack_loss(kind: str, shape: tuple[int, int], device: torch.device) -> Case:
    drawn, attack = Logits.draw(shape, torch.float32, device), _ATTACKS[kind]
    logits, options = drawn.student.detach(), attack.options(drawn)
    read = {"logits": logits} | ({"reference": drawn.teacher} if kind == "kl" else {})
    return Case(
        fused=lambda: fastadv.attack_loss_value_and_grad(logits, **options)[:2],
        eager=attack.eager,
        arguments=attack.arguments(drawn),
        work=Work.of(read | {"gradient": logits}, attack.operations, logits.numel(), "passes over a class"),
        atol=attack.atol,
    )
