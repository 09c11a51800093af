"""Checks of the arguments that the attacks share, made once before the loop."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.ops import checks

# The length of all steps together, in radii: enough to cross the ball and come back some way.
_TRAVEL = 2.5


def count(name: str, value: int, least: int) -> int:
    """``value``, an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def master(x: Tensor) -> Tensor:
    """Clean images [N, ...] detached, in float32 (float64 stays): in half precision the ball would not hold."""
    checks.samples("x", x)
    return x.detach() if x.dtype is torch.float64 else x.detach().float()


def step_length(x: Tensor, eps: float | Tensor, step_size: float | Tensor | None, steps: int) -> float | Tensor:
    """``step_size``, 2.5 eps / steps where it is None; both it and ``eps`` are a float or [N]."""
    checks.radius("eps", eps, x)
    if step_size is None:
        return _TRAVEL * eps / max(steps, 1)
    checks.step("step_size", step_size, x)
    return step_size
