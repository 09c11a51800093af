"""One row of the benchmark: the call that is measured, what it is measured against, the work it has to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

Call = Callable[[], object]


class Missing(Exception):
    """An opponent that cannot be measured here; the reason is shown in its place."""


@dataclass(frozen=True)
class Work:
    """The least that a call must do, and the formulas that say so.

    Each input is read once and each output written once, whatever an implementation stores in between. An operation is
    an arithmetic one, a comparison, a rounding or an exponential.
    """

    bytes: int
    bytes_formula: str
    operations: int
    operations_formula: str

    @classmethod
    def of(cls, moved: Mapping[str, Tensor], each: float, elements: int, what: str) -> Work:
        """Of tensors by name, an output being as large as the tensor given for it; ``each`` operations an element."""
        sizes = " + ".join(f"{name} {x.numel() * x.element_size():,}" for name, x in moved.items())
        total = sum(x.numel() * x.element_size() for x in moved.values())
        return cls(total, sizes, round(each * elements), f"{each:g} x {elements:,}: {what}")


@dataclass(frozen=True)
class Case:
    """A fused call, the published formula on the same ``arguments``, and other opponents.

    Calls return the tensors that are compared before anything is timed.

    Attributes:
        work: None where a network does most of it.
        eager: the formula as people write it; ``torch.compile`` of it is an opponent too.
        backward: the leaves among ``arguments`` whose gradients belong to the result.
        atol: bounds the ``difference`` of the fused result from the formula's in float32, ``opponents_atol`` that of
            the opponents' (the same if it is not given).
        opponents: opponents by name, built when they are measured; building raises Missing where there is none.
        not_compiled: why ``torch.compile`` of the formula is no opponent.
        agreement: what ``difference`` measures, in words.
        note: what a reader must know of the two sides.
    """

    fused: Call
    eager: Callable[..., object]
    arguments: tuple[object, ...]
    work: Work | None
    atol: float
    opponents_atol: float | None = None
    backward: tuple[Tensor, ...] = ()
    opponents: Mapping[str, Callable[[], Call]] = field(default_factory=dict)
    not_compiled: str = ""
    difference: Callable[[object, object], float] = lambda result, expected: largest_difference(result, expected)
    agreement: str = "largest difference, relative to the largest magnitude"
    note: str = ""

    def call(self, function: Callable[..., object]) -> Call:
        """The call of ``function``, which is ``eager`` or a compiled form of it, on the same inputs."""
        return _call(function, self.arguments, self.backward)

    def expected(self) -> object:
        """The formula's result on the same inputs in float32, or in the inputs' own precision where that is higher."""
        leaves = {id(leaf): _widened(leaf) for leaf in self.backward}
        arguments = (x if not isinstance(x, Tensor) else leaves.get(id(x), _widened(x)) for x in self.arguments)
        return _call(self.eager, tuple(arguments), tuple(leaves.values()))()


class Sweep(NamedTuple):
    """Place of a case in a family that differs in one size alone."""

    family: str
    axis: str
    size: int


@dataclass(frozen=True)
class Entry:
    """A case of the registry, built when it is measured.

    Attributes:
        op: the public function that is measured.
        chosen: whether it is measured by default, or only with --all.
        large: measured by default on a GPU, which smaller ones do not fill.
        compiled: whether ``torch.compile`` is an opponent by default, or only with --all: compiling takes seconds.
        sweeps: the families it is a member of.
    """

    name: str
    op: str
    build: Callable[[torch.device], Case]
    chosen: bool = False
    compiled: bool = True
    sweeps: tuple[Sweep, ...] = ()
    large: bool = False


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


def largest_difference(result: object, expected: object) -> float:
    """Largest difference of two results, relative to the largest magnitude of ``expected`` unless that is zero.

    Of several tensors the largest, each by its own magnitude: the gradient of a mean over a batch is small, and must
    be right all the same. Infinite where anything is NaN or infinite, which no case is meant to give.
    """
    if isinstance(result, Tensor) and isinstance(expected, Tensor):
        if result.shape != expected.shape:
            return float("inf")
        if not result.numel():
            return 0.0
        if not (result.isfinite().all() and expected.isfinite().all()):
            return float("inf")
        difference = (result.detach().double() - expected.detach().double()).abs()
        largest = float(expected.detach().abs().max())
        return float(difference.max()) / (largest or 1.0)
    assert isinstance(result, tuple)
    assert isinstance(expected, tuple)
    return max(largest_difference(x, y) for x, y in zip(result, expected, strict=True))


def share_apart(result: object, expected: object, *, threshold: float) -> float:
    """The share of elements further apart than ``threshold``: for steps by a sign, which flips at rounding."""
    pairs = zip(_tensors(result), _tensors(expected), strict=True)
    apart = [~((x.float() - y.float()).abs() <= threshold).flatten() for x, y in pairs]
    return float(torch.cat(apart).float().mean())


def _tensors(result: object) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result  # type: ignore[return-value]


def _call(function: Callable[..., object], arguments: tuple[object, ...], leaves: tuple[Tensor, ...]) -> Call:
    if not leaves:
        return lambda: function(*arguments)
    return lambda: with_backward(function(*arguments), *leaves)


def _widened(x: Tensor) -> Tensor:
    half = x.dtype in (torch.bfloat16, torch.float16)
    return x.detach().float().requires_grad_(x.requires_grad) if half else x
