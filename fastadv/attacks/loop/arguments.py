"""Checks of the arguments that the attacks share, made once before the loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.model import values
from fastadv.numerics import per_sample
from fastadv.ops import checks
from fastadv.ops.pixelwise import Bounds

# The length of all steps together, in radii: enough to cross the ball and come back some way.
_TRAVEL = 2.5


class Schedule(NamedTuple):
    """The number of steps: of the loop, and of each row, int64 [rows]; None where every row makes all of them."""

    longest: int
    each: Tensor | None = None

    def of_copies(self, copies: int) -> Schedule:
        """Return the same for ``copies`` rows a sample."""
        return Schedule(self.longest, repeat_rows(self.each, copies))


def count(name: str, value: int, least: int) -> int:
    """Return ``value``, an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def clean_images(x: Tensor, bounds: Bounds, check: bool | None) -> Tensor:
    """Return clean images [N, ...] :func:`as_float32`; ValueError where they lie outside of ``bounds``, if looked at.

    check: see :func:`fastadv.attacks.model.values.readable`.
    """
    checks.samples("x", x)
    if values.readable(x, check):
        values.check_images(x.detach(), bounds)
    return as_float32(x)


def as_float32(x: Tensor) -> Tensor:
    """Return clean images [N, ...] detached, in float32 (float64 stays): in half precision the ball would not hold."""
    checks.samples("x", x)
    return x.detach() if x.dtype is torch.float64 else x.detach().float()


def step_count(steps: int | Tensor, x: Tensor) -> Schedule:
    """Return the schedule of ``steps``, an int for all samples of ``x`` [N, ...], or int64 [N] in the host's memory.

    The host counts the loop and must know its end without waiting for a device.
    """
    if not isinstance(steps, Tensor):
        return Schedule(count("steps", steps, 0))
    if torch.compiler.is_compiling():
        raise ValueError("steps must be an int under torch.compile, where the length of the loop is part of the graph")
    if steps.device.type != "cpu":
        raise ValueError(f"steps must be an int or a tensor on the CPU, where the loop is counted, got {steps.device}")
    checks.int64("steps", steps, [x.shape[0]], steps)
    numbers = steps.tolist()
    if numbers and min(numbers) < 0:
        raise ValueError(f"steps must be at least 0 for every sample, got {min(numbers)}")
    return Schedule(max(numbers, default=0), steps.to(x.device, non_blocking=True))


def step_length(x: Tensor, eps: float | Tensor, step_size: float | Tensor | None, schedule: Schedule) -> float | Tensor:
    """Return ``step_size``, 2.5 eps / steps where it is None.

    Both it and ``eps`` are a float, [N], or a tensor that broadcasts to ``x`` [N, ...], which the ops check.
    """
    several = isinstance(eps, Tensor) and eps.dim() > 1
    if not several:
        checks.radius("eps", eps, x)
    if step_size is None:
        if schedule.each is None:
            return _TRAVEL * eps / max(schedule.longest, 1)
        steps = schedule.each.clamp(min=1).double()
        return _TRAVEL * eps / (per_sample(steps, x) if several else steps)
    if not (isinstance(step_size, Tensor) and step_size.dim() > 1):
        checks.step("step_size", step_size, x)
    return step_size
