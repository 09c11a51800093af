"""Floor that the machine itself sets: its copies, its arithmetic, and what a call costs before it computes anything."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import fastadv
from benchmarks.suite.case import Call, with_backward
from benchmarks.suite.measure import COLD, ColdClock, Effort, interleaved, warm_clock
from benchmarks.suite.spread import Spread, ratio

COPIES = tuple(2**power for power in range(12, 29, 2))  # 4 KiB to 256 MiB, read and written
ON_A_GPU = (2**30, 2**32)


@dataclass(frozen=True)
class Floor:
    """The time of PyTorch's own copy by the bytes it reads and writes, warm and cold, and the rate of a matrix product.

    A copy of little is what a call costs; a copy of much is the memory's bandwidth.
    """

    warm: Mapping[int, float]
    cold: Mapping[int, float]
    operations_per_second: float

    def seconds(self, moved: int, *, cold: bool = False) -> float:
        """The time of a copy of as many bytes, between the measured ones on a line in logarithms."""
        copies = self.cold if cold else self.warm
        sizes = sorted(copies)
        if moved <= sizes[0]:
            return copies[sizes[0]]
        if moved >= sizes[-1]:
            return copies[sizes[-1]] * moved / sizes[-1]
        above = bisect_left(sizes, moved)
        small, large = sizes[above - 1], sizes[above]
        share = math.log(moved / small) / math.log(large / small)
        return copies[small] ** (1 - share) * copies[large] ** share

    @property
    def bandwidth(self) -> float:
        """Bytes a second, read and written, of the largest copy."""
        largest = max(self.warm)
        return largest / self.warm[largest]

    def as_json(self) -> dict[str, Any]:
        return {
            "copies": [
                {"bytes": size, "seconds": self.warm[size], "cold_seconds": self.cold[size]}
                for size in sorted(self.warm)
            ],
            "operations_per_second": self.operations_per_second,
            "operations_of": "a float32 matrix product, 2 a multiply-add",
        }

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Floor:
        copies = written["copies"]
        return cls(
            {copy["bytes"]: copy["seconds"] for copy in copies},
            {copy["bytes"]: copy["cold_seconds"] for copy in copies},
            written["operations_per_second"],
        )

    @classmethod
    def measure(cls, device: torch.device, effort: Effort | None = None) -> Floor:
        # The product comes first: a GPU's clocks rise with what it has to do.
        side = 1024 if device.type == "cpu" else 8192
        a, b = (torch.rand(side, side, device=device) for _ in range(2))
        product = interleaved({"product": lambda: a @ b}, warm_clock(device), effort)["product"]
        sizes = COPIES + (ON_A_GPU if device.type == "cuda" else ())
        warm, cold = {}, {}
        random = torch.Generator(device).manual_seed(0)
        for size in sizes:
            # Not zeros, which cost less power, and which memory may hold in fewer bytes.
            source = torch.randint(256, (size // 2,), dtype=torch.uint8, device=device, generator=random)
            copy = {"copy": _copy(source, torch.empty_like(source))}
            warm[size] = Spread.of(interleaved(copy, warm_clock(device), effort)["copy"]).median
            cold[size] = Spread.of(interleaved(copy, ColdClock(device), COLD)["copy"]).median
        # Noise may make a smaller copy the slower one.
        for copies in (warm, cold):
            for large, small in pairwise(reversed(sizes)):
                copies[small] = min(copies[small], copies[large])
        return cls(warm, cold, 2 * side**3 / Spread.of(product).median)


def overhead(device: torch.device, effort: Effort | None = None) -> dict[str, dict[str, Any]]:
    """Cost of a call for the host on the smallest problem, where only the way to the kernel counts."""
    x, logits, zero = (torch.ones(size, device=device) for size in ((1, 4), (1, 2), (1,)))
    student = logits.clone().requires_grad_()
    # Each with what it is measured against.
    calls: dict[str, tuple[Call, str | None]] = {
        "torch.neg": (lambda: torch.neg(zero), None),
        "pgd_step": (lambda: fastadv.pgd_step(x, x, x, eps=0.1, step_size=0.1), "torch.neg"),
        "kl_distill": (lambda: fastadv.kl_distill(logits, logits), "torch.neg"),
        "autograd.Function, forward + backward": (lambda: with_backward(_Nothing.apply(student), student), None),
        "kl_distill, forward + backward": (
            lambda: with_backward(fastadv.kl_distill(student, logits), student),
            "autograd.Function, forward + backward",
        ),
    }
    seconds = interleaved({name: call for name, (call, _) in calls.items()}, effort=effort)
    return {
        name: {
            "seconds": vars(Spread.of(seconds[name])),
            "beside": beside,
            "ratio": vars(ratio(seconds[name], seconds[beside])) if beside else None,
        }
        for name, (_, beside) in calls.items()
    }


def _copy(source: Tensor, target: Tensor) -> Call:
    return lambda: target.copy_(source)


class _Nothing(torch.autograd.Function):
    """Saves one tensor, returns a number, and hands back what it saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.new_empty(())

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (saved,) = ctx.saved_tensors
        return saved
