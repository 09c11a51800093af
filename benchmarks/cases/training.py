"""Cases of a training step of every method, on networks small enough that what surrounds them can be seen.

No published loop exists for each of them: the opponent is the same step with every op in plain PyTorch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

import fastadv
from benchmarks.case import Case, Entry
from benchmarks.cases.inputs import CIFAR, generator, size, uniform
from fastadv.distill import Batch, Method
from fastadv.train import models
from fastadv.train.methods import METHODS

BATCH, CLASSES = 16, 100
TEACHER, STUDENT = "resnet14", "resnet8"
# The five systems, and what they are compared with.
CHOSEN = ("kd", "tald", "amkd", "igdm", "data-free", "ai-kd")


def entries() -> Iterator[Entry]:
    for name, known in METHODS.items():
        row = f"training step {name}, {TEACHER} to {STUDENT}, {size((BATCH, *CIFAR))}"
        yield Entry(row, f"distill.{known.kind.__name__}", partial(_case, name), name in CHOSEN)


def _case(name: str, device: torch.device) -> Case:
    method = METHODS[name].kind()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher, student = (
            models.build(network, num_classes=CLASSES, image_shape=CIFAR).to(device) for network in (TEACHER, STUDENT)
        )
        example = uniform(generator(device), BATCH, *CIFAR)
        method.build(student, teacher.eval().requires_grad_(False), example, images=BATCH)
    method.to(device)
    x = example if method.needs_images else example.new_empty(BATCH, 0)
    y = torch.arange(BATCH, device=device) % CLASSES
    batch = Batch(x, y, progress=0.5, index=torch.arange(BATCH, device=device))
    # What a method or BatchNorm remembers of a step must not reach the other side.
    ours, theirs = copy.deepcopy((method, student)), (method, student)

    def fused() -> Tensor:
        return _step(*ours, teacher, batch)

    def eager() -> Tensor:
        with fastadv.use_backend("reference"):
            return _step(*theirs, teacher, batch)

    return Case(
        fused,
        eager,
        (),
        work=None,
        # Attacks turn where a sign does, and with them the loss a little.
        atol=1e-2,
        not_compiled="a step is compiled by its networks alone",
        agreement="difference of the losses, relative where they are above 1",
    )


def _step(method: Method, student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """Forward and backward pass of a step, the gradients thrown away."""
    student.train()
    loss = method(student, teacher, batch)["loss"]
    loss.backward()
    student.zero_grad(set_to_none=True)
    method.zero_grad(set_to_none=True)
    return loss.detach()
