"""Cases of the losses on features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import fastadv
from benchmarks.cases.inputs import generator, normal, size
from benchmarks.opponents import features, peers
from benchmarks.suite.case import Call, Case, Entry, Work, with_backward


def entries() -> Iterator[Entry]:
    for shape in ((64, 256), (1024, 512), (16_384, 512)):
        usual, large = shape == (64, 256), shape[0] == 16_384
        for form, case in (("forward + backward", _triplets), ("value and gradients", _triplet_gradients)):
            name = f"triplet_margin_loss {size(shape)} {form}"
            yield Entry(name, "triplet_margin_loss", partial(case, shape), usual, large=large)
    for shape in ((64, 256), (128, 512)):
        usual, name = shape == (64, 256), f"rkd_loss {size(shape)} forward + backward"
        yield Entry(name, "rkd_loss", partial(_rkd, shape), usual, large=not usual)
    for layer in ((64, 64, 32, 32), (256, 64, 32, 32)):
        usual = layer[0] == 64
        for form, build in (("fwd + bwd", _boundary), ("value and grad", _boundary_gradient)):
            name = f"activation_boundary {size(layer)} {form}"
            yield Entry(name, "activation_boundary_loss", partial(build, layer), usual, large=not usual)


def _triplets(shape: tuple[int, int], device: torch.device) -> Case:
    source = generator(device)
    leaves = tuple(normal(source, *shape).requires_grad_() for _ in range(3))
    return Case(
        fused=lambda: with_backward(fastadv.triplet_margin_loss(*leaves), *leaves),
        # PyTorch's own, which is what people write.
        eager=F.triplet_margin_loss,
        arguments=leaves,
        work=_triplet_work(*leaves),
        atol=1e-5,
        backward=leaves,
        opponents={"pytorch-metric-learning": partial(_metric_learning, leaves)},
        note="pytorch-metric-learning, given the triplets as indices, computes the distances of all rows to all",
    )


def _metric_learning(leaves: tuple[Tensor, ...]) -> Call:
    loss = peers.metric_learning_triplets(leaves[0].shape[0])
    return lambda: with_backward(loss(*leaves), *leaves)


def _triplet_gradients(shape: tuple[int, int], device: torch.device) -> Case:
    source = generator(device)
    triplet = tuple(normal(source, *shape) for _ in range(3))
    return Case(
        fused=lambda: fastadv.triplet_margin_loss_value_and_grad(*triplet),
        eager=features.triplet_margin_loss_and_gradients,
        arguments=triplet,
        work=_triplet_work(*triplet),
        atol=1e-5,
    )


def _triplet_work(anchor: Tensor, positive: Tensor, negative: Tensor) -> Work:
    read = {"anchor": anchor, "positive": positive, "negative": negative}
    written = {"three gradients": torch.stack((anchor, positive, negative))}
    return Work.of(read | written, 13, anchor.numel(), "two distances of 4, three gradients of an element of a triplet")


def _rkd(shape: tuple[int, int], device: torch.device) -> Case:
    source = generator(device)
    student, teacher = normal(source, *shape).requires_grad_(), normal(source, *shape)
    batch = shape[0]
    return Case(
        fused=lambda: with_backward(fastadv.rkd_loss(student, teacher), student),
        eager=features.rkd_loss,
        arguments=(student, teacher, 25.0, 50.0),
        work=Work.of(
            {"student": student, "teacher": teacher, "gradient": student},
            6 * batch + 10 * batch * batch / shape[1],
            student.numel(),
            "Gram matrices of both networks and one gradient of B products each, and 10 for each of B^3 angles",
        ),
        atol=1e-5,
        backward=(student,),
        note="the published formula picks by a mask, on which torch.compile breaks its graph in two",
    )


def _boundary(shape: tuple[int, ...], device: torch.device) -> Case:
    source = generator(device)
    student, teacher = normal(source, *shape).requires_grad_(), normal(source, *shape)
    return Case(
        fused=lambda: with_backward(fastadv.activation_boundary_loss(student, teacher), student),
        eager=features.activation_boundary_loss,
        arguments=(student, teacher, 1.0),
        work=_boundary_work(student, teacher),
        atol=1e-5,
        backward=(student,),
    )


def _boundary_gradient(shape: tuple[int, ...], device: torch.device) -> Case:
    source = generator(device)
    student, teacher = normal(source, *shape), normal(source, *shape)

    def value_and_grad() -> tuple[Tensor, Tensor]:
        value, grad = fastadv.activation_boundary_loss_value_and_grad(student, teacher)
        return value.sum(), grad

    return Case(
        fused=value_and_grad,
        eager=features.activation_boundary_sum_and_gradient,
        arguments=(student, teacher, 1.0),
        work=_boundary_work(student, teacher),
        atol=1e-5,
    )


def _boundary_work(student: Tensor, teacher: Tensor) -> Work:
    read = {"student": student, "teacher": teacher, "gradient": student}
    return Work.of(read, 8, student.numel(), "two comparisons, a shift, a square, a sum, the gradient of an activation")
