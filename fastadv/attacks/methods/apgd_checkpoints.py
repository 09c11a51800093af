"""When Auto-PGD looks back on its steps: known to the host before the loop, for every sample."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def checkpoints(steps: int) -> list[int]:
    """The iterations w_j below ``steps`` at which the step size may halve, ascending, without w_0 = 0."""
    # In hundredths, in which the recursion is exact.
    found, p, gap = {0}, 22, 22
    while p < 100:
        found.add(-(-p * steps // 100))
        gap = max(gap - 3, 6)
        p += gap
    return sorted(found - {0, steps})


def sparsity_checkpoints(steps: int) -> list[int]:
    """The same for l1: every 4 % of ``steps``, rounded down, at least 1."""
    every = max(4 * steps // 100, 1)
    return list(range(every, steps, every))


def periods(marks: Callable[[int], list[int]], steps: int | Tensor, x: Tensor) -> list[Tensor | None]:
    """For each iteration the steps [N] since the last of ``marks``, 0 for a sample without one here; None without any.

    The host knows where to look without asking the device.
    """
    if isinstance(steps, int):
        ends = {end: end - start for start, end in pairwise([0, *marks(steps)])}
        return [torch.full([x.shape[0]], ends[k], device=x.device) if k in ends else None for k in range(steps)]
    table = torch.zeros(max(steps.tolist(), default=0), x.shape[0], dtype=torch.int64)
    for sample, own in enumerate(steps.tolist()):
        for start, end in pairwise([0, *marks(own)]):
            table[end, sample] = end - start
    used = [any(row) for row in table.tolist()]
    return [row if some else None for row, some in zip(table.to(x.device, non_blocking=True), used, strict=True)]
