"""A case: the call of an op, its random inputs, and how its results are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Size = tuple[int, ...]


class Draw:
    """Random inputs of one dtype, the same for the same seed."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self.dtype = dtype
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: Size, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=self._generator, dtype=torch.float64)).to(self.dtype)

    def pixels(self, shape: Size) -> Tensor:
        """Uniform in [0, 1], with a tenth of the pixels black and a tenth white."""
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return (1.25 * uniform - 0.125).clamp(0, 1).to(self.dtype)

    def gradient(self, shape: Size) -> Tensor:
        """Normal, with a tenth of the elements zero."""
        dropped = torch.rand(shape, generator=self._generator) < 0.1
        return self.normal(shape).masked_fill(dropped, 0)

    def positive(self, samples: int, most: float) -> Tensor:
        """One number a sample in [0, most], the first zero, in the precision of per-sample arguments."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        values = most * torch.rand(samples, generator=self._generator, dtype=dtype)
        values[:1] = 0
        return values

    def classes(self, samples: int, classes: int) -> Tensor:
        return torch.randint(classes, (samples,), generator=self._generator)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of calling an op.

    ``name`` begins with the op, and a dash where more follows. ``call`` takes a library, FUSED or ORACLE, and the
    tensors that ``make`` draws. ``kind`` is a row of the table of tolerances, ``sizes`` one of :data:`SIZES`.
    ``exact``: float32 results equal the reference's to the bit, up to the sign of a zero. ``phi``: the direction, where
    its sign alone decides how the samples move.
    """

    name: str
    kind: str
    sizes: str
    make: Callable[[Draw, Size], Tensors]
    call: Callable[[Any, Tensors], Tensor]
    differentiable: tuple[str, ...] = ()
    exact: bool = False
    phi: Callable[[Any, Tensors], Tensor] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def op(self) -> str:
        return self.name.partition("-")[0]

    def evaluate(self, library: Any, tensors: Tensors) -> list[Tensor]:
        """Return the results, and their gradient w.r.t. every differentiable input for an incoming one other than 1."""
        leaves = {name: t.detach() for name, t in tensors.items()}
        for name in self.differentiable:
            leaves[name].requires_grad_()
        result = self.call(library, leaves)
        if not self.differentiable:
            return [result]
        return [result.detach(), *self.gradients(result, leaves)]

    def gradients(self, result: Tensor, leaves: Tensors) -> tuple[Tensor, ...]:
        """Return those w.r.t. every differentiable input, for an incoming one other than 1, the same in every dtype."""
        # From 1/2 up in steps of 1/128, which every dtype and device has exactly.
        incoming = (64 + torch.arange(result.numel(), device=result.device) % 128).to(result.dtype) / 128
        incoming = incoming.view(result.shape)
        return torch.autograd.grad(result, [leaves[name] for name in self.differentiable], incoming)

    def doubtful(self, library: Any, tensors: Tensors) -> Tensor | None:
        """Mark where the direction that ``library`` finds in float64 is so small that rounding decides its sign."""
        if self.phi is None:
            return None
        phi = self.phi(library, tensors)
        return phi.abs() <= 1e-4 * phi.square().mean().sqrt()


def calling(op: str, *inputs: str, **keywords: Any) -> Callable[[Any, Tensors], Tensor]:
    """Return the call of ``op`` with ``inputs`` by position, every other drawn tensor by its name, and ``keywords``."""

    def call(library: Any, tensors: Tensors) -> Tensor:
        named = {name: t for name, t in tensors.items() if name not in inputs}
        return getattr(library, op)(*(tensors[name] for name in inputs), **named, **keywords)

    return call


def in_float64(tensors: Tensors) -> Tensors:
    return {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}


# Odd sizes, D no multiple of 16, one sample, none, single pixels, more than a block of any kernel.
SIZES: dict[str, tuple[Size, ...]] = {
    "images": ((3, 3, 5, 7), (1, 3, 5, 7), (0, 3, 4, 4), (2, 1, 1, 1), (2, 5), (1, 4, 2, 3, 3), (2, 3, 37, 41)),
    # Not square, smaller than a window, more channels than a counter block has signs for.
    "pictures": ((3, 3, 5, 7), (6, 3, 17, 13), (0, 3, 4, 4), (2, 1, 3, 3), (1, 130, 3, 4), (2, 3, 37, 41)),
    "particles": ((2, 4, 2, 3, 3), (3, 1, 2, 3, 3), (1, 2, 7), (0, 4, 3, 2, 2), (1, 7, 3, 5, 5), (1, 2, 1, 33, 41)),
    "logits": ((5, 7), (1, 2), (0, 10), (7, 100), (3, 1271), (2, 32000), (4, 1)),
    "features": ((3, 3, 5, 7), (1, 3, 5, 7), (0, 3, 4, 4), (2, 1, 1, 1), (2, 5), (1, 4, 2, 3, 3), (2, 3, 37, 41)),
    # Two points, none, one, points on a line, more features or points than a tile of any kernel.
    "relations": ((5, 7), (2, 3), (0, 4), (1, 4), (4, 1), (9, 260), (37, 5)),
    "two_classes": ((5, 7), (1, 2), (0, 10), (7, 100), (3, 1271), (2, 32000)),
    "four_classes": ((5, 7), (1, 4), (0, 10), (7, 100), (3, 1271), (2, 32000)),
}


def dense(x: Tensor) -> Tensor:
    """``x`` contiguous or channels_last."""
    is_dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x if is_dense else x.contiguous()
