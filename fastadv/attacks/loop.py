"""The loop that every attack runs, and the best iterate it has seen. Nothing here waits for a device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastadv.attacks.objective import Objective

Step = Callable[[Tensor, Tensor], Tensor]
Watch = Callable[[Tensor, Tensor, Tensor], object]


def ascend(objective: Objective, x: Tensor, step: Step, steps: int, *, watch: Watch | None = None) -> Tensor:
    """``steps`` times ``x = step(x, gradient)``; ``watch`` sees each (x, values, gradient) before its step."""
    for _ in range(steps):
        value, grad = objective.value_and_grad(x)
        if watch is not None:
            watch(x, value, grad)
        x = step(x, grad)
    return x


class Best:
    """For each row the iterate of the highest value offered so far, ``x`` while there is none; a NaN never wins."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.value = torch.full([x.shape[0]], -math.inf, device=x.device)

    def offer(self, x: Tensor, value: Tensor, grad: Tensor | None = None) -> None:
        """Take the rows of ``x`` [rows, ...] whose ``value`` [rows] is higher; ``grad`` is not looked at."""
        better = value > self.value
        self.x = torch.where(better.view(-1, *[1] * (x.dim() - 1)), x, self.x)
        self.value = torch.where(better, value, self.value)

    def of_copies(self, copies: int) -> Best:
        """The best of each sample's ``copies`` rows."""
        rows = (self.value.shape[0] // copies, copies)
        x, value = self.x.unflatten(0, rows), self.value.unflatten(0, rows)
        best = Best(x[:, 0])
        for copy in range(copies):
            best.offer(x[:, copy], value[:, copy])
        return best
