"""Cases of a training step of every method, on networks small enough that what surrounds them can be seen.

The opponent is the step as people write it (:mod:`benchmarks.cases.plain_steps`), of the same networks, batch, recipe
and random numbers. A step is the forward and backward pass of the student and, where the method has one, of its
adversary; the optimizers, the same on both sides, are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases.inputs import CIFAR, size
from benchmarks.cases.plain_steps import PLAIN, Plain
from benchmarks.cases.setup import STUDENT, TEACHER, Setup, build_setup
from benchmarks.suite.case import Case, Entry
from benchmarks.suite.runner import Differs
from fastadv.distill import AdversarialMethod
from fastadv.train.config.methods import METHODS

# Images of a step; images that are enough to compare the two sides in float64.
BATCH, FEW = 16, 4
# Relative differences: in float64 of losses and gradients; in float32 of losses, also where an attack steps by signs, a
# few of which rounding turns.
FLOAT64, FLOAT32, ATTACKED = 1e-6, 1e-4, 2e-2

Found = tuple[tuple[Tensor, tuple[Tensor, ...]], ...]


def entries() -> Iterator[Entry]:
    for name, known in METHODS.items():
        row = f"training step {name}, {TEACHER} to {STUDENT}, {size((BATCH, *CIFAR))}"
        yield Entry(row, f"distill.{known.kind.__name__}", partial(_case, name), chosen=True)


def _case(name: str, device: torch.device) -> Case:
    plain = PLAIN[name]
    check(name, plain, device)
    ours, theirs = _steps(plain, build_setup(name, BATCH, device))
    return Case(
        fused=ours,
        eager=theirs,
        arguments=(),
        work=None,
        atol=ATTACKED if plain.attacks else FLOAT32,
        not_compiled="a step is compiled by its networks alone",
        difference=_losses_apart,
        agreement=f"relative difference of the losses; in float64 that of the gradients too, within {FLOAT64:.0e}",
        note=plain.note,
    )


def check(name: str, plain: Plain, device: torch.device) -> None:
    """Compare losses and gradients of both steps in float64. Raises Differs."""
    apart = _apart(*(step() for step in _steps(plain, build_setup(name, FEW, device).doubled())))
    if not apart <= FLOAT64:
        raise Differs(
            f"in float64 losses or gradients differ by {apart:.2e}, more than {FLOAT64:.0e}; nothing was timed"
        )


def _steps(plain: Plain, ours: Setup) -> tuple[Callable[[], Found], Callable[[], Found]]:
    """The method's step, and the plain one on copies of everything."""
    theirs = copy.deepcopy(ours)
    # As a loop has it that loads a teacher and calls eval().
    theirs.teacher.requires_grad_()
    losses, of_ours, of_theirs = plain.losses(theirs), _trained(ours), _trained(theirs)
    return lambda: _step(ours, _losses(ours), of_ours), lambda: _step(theirs, losses(), of_theirs)


def _losses(setup: Setup) -> Iterator[Tensor]:
    """The loss of the method's student and, where there is one, of its adversary."""
    method, networks = setup.method, (setup.student, setup.teacher)
    yield method(*networks, setup.batch)["loss"]
    if isinstance(method, AdversarialMethod):
        yield method.adversary_terms(*networks, setup.batch)["loss"]


def _trained(setup: Setup) -> list[list[nn.Parameter]]:
    """The parameters of each of the losses."""
    method, parameters = setup.method, [[*setup.student.parameters(), *setup.method.own_parameters()]]
    return [*parameters, [*method.adversary.parameters()]] if isinstance(method, AdversarialMethod) else parameters


def _step(setup: Setup, losses: Iterable[Tensor], trained: list[list[nn.Parameter]]) -> Found:
    """Each loss and its gradients, and no others."""
    setup.student.train()
    pairs = zip(losses, trained, strict=True)
    return tuple((loss.detach(), torch.autograd.grad(loss, parameters)) for loss, parameters in pairs)


def _apart(result: Found, expected: Found) -> float:
    """The largest relative difference of losses, and of all gradients of a loss in l2."""
    gradients = [
        _length(x - y for x, y in zip(found, wanted, strict=True)) / _length(wanted)
        for (_, found), (_, wanted) in zip(result, expected, strict=True)
    ]
    return max(_losses_apart(result, expected), _worst(gradients))


def _losses_apart(result: Any, expected: Any) -> float:
    """The largest relative difference of losses."""
    return _worst((x - y).abs() / y.abs() for (x, _), (y, _) in zip(result, expected, strict=True))


def _worst(differences: Iterable[Tensor]) -> float:
    return float(torch.nan_to_num(torch.stack([*differences]), nan=float("inf")).max())


def _length(gradients: Iterable[Tensor]) -> Tensor:
    return torch.stack([each.norm() for each in gradients]).norm()
