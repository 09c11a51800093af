"""The least that torch.compile of the published formulas, and Liger, launch for the cases of the page."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.opponents import losses, steps
from performance.inductor import plan
from performance.model import FLOAT, Program

EPS, STEP = 8 / 255, 2 / 255
# Kernels and passes over [N, C] of Liger's loss behind PyTorch's softmaxes, forward and backward, as
# benchmarks/opponents calls it: logits divided and log_softmax or softmax taken, of both networks, and back through the
# student's.
#   kl: Liger's forward reads two and writes a number a row, its backward reads one and writes one, scaled after it.
#   js: a clone that Liger writes its gradient over; it reads two, writes that and the loss of each class, which are
#       added up; the gradient is scaled after it.
LIGER = {"kl_distill": (9, 4 * 2 + 2 + 2 + 2 + 3 + 2), "js_distill": (10, 4 * 2 + 2 + 4 + 1 + 2 + 3 + 2)}


class Formula(NamedTuple):
    """The published formula, and its inputs for the shape in a case's name."""

    function: Callable[..., object]
    inputs: Callable[..., tuple[Tensor, ...]]


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _order(n: int) -> Tensor:
    return torch.empty(n, dtype=torch.int64, device="meta")


def _same(count: int) -> Callable[..., tuple[Tensor, ...]]:
    return lambda *shape: tuple(_empty(*shape) for _ in range(count))


def _value_and_gradient(loss: Callable[..., Tensor], *inputs: Tensor, **options: float) -> tuple[Tensor, ...]:
    return losses.with_gradient(partial(loss, **options))(*inputs)


FORMULAS = {
    "pgd_step linf": Formula(partial(steps.pgd_step_linf, eps=EPS, step_size=STEP), _same(3)),
    "pgd_step l2": Formula(partial(steps.pgd_step_l2, eps=0.5, step_size=0.1), _same(3)),
    "pgd_step l1": Formula(lambda *x: steps.pgd_step_l1(*x, 12.0, 1.0, math.ceil(x[0][0].numel() / 20)), _same(3)),
    "momentum_step linf": Formula(partial(steps.momentum_step, eps=EPS, step_size=STEP, decay=1.0), _same(4)),
    "bss_step": Formula(
        partial(steps.bss_step, step_size=0.3), lambda n, *shape: (*_same(2)(n, *shape), _empty(n), _empty(n) > 0)
    ),
    "mix": Formula(lambda x, order: steps.mix(x, 0.3, order), lambda *shape: (_empty(*shape), _order(shape[0]))),
    "mix_backward": Formula(
        lambda x, grad, order: torch.autograd.grad(steps.mix(x.requires_grad_(), 0.3, order), x, grad),
        lambda n, size: (*_same(2)(n, size), _order(n)),
    ),
    "kl_distill": Formula(partial(_value_and_gradient, losses.kl_distill, temperature=4.0), _same(2)),
    "kd_loss": Formula(
        partial(_value_and_gradient, losses.kd_loss, temperature=4.0, alpha=0.9),
        lambda n, classes: (*_same(2)(n, classes), _order(n)),
    ),
    "js_distill": Formula(partial(_value_and_gradient, losses.js_distill, temperature=4.0), _same(2)),
    "svgd_step": Formula(
        partial(steps.svgd_step, eps=EPS, step_size=STEP),
        lambda images, n, size: (*_same(2)(images, n, size), _empty(images, size)),
    ),
}

# Of losses whose mean over the batch is taken, and its gradient by autograd, as training loops do it.
TRAINED = {"kl_distill": Formula(partial(losses.kl_distill, temperature=4.0), _same(2))}


def rivals(name: str) -> dict[str, Program]:
    """Return the programs that compute the same as the case of that name."""
    case, _, mean = name.partition(", ")
    family, _, size = case.rpartition(" ")
    shape = tuple(map(int, size.split("x")))
    formula = TRAINED[family] if mean else FORMULAS[family]
    programs = {"torch.compile": plan(formula.function, *formula.inputs(*shape), trained=bool(mean))}
    if family in LIGER:
        launches, passes = LIGER[family]
        programs["Liger"] = Program(launches, passes * math.prod(shape) * FLOAT)
    return programs
