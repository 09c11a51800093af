"""One ascent step: pgd_step and, in place, pgd_step_; momentum_step; bss_step.

Kernels and cost: :mod:`fastadv.kernels.move`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.kernels.geometry import STEEPEST
from fastadv.kernels.move import move, move_to_boundary


def pgd_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float,
    step_size: float,
    norm: int,
    low: float,
    high: float,
    l1_fraction: float,
    exact: bool,
    eps_n: Tensor | None,
    step_size_n: Tensor | None,
) -> Tensor:
    """Launcher of :func:`fastadv.pgd_step`."""
    out = torch.empty_like(x)
    ball_and_step = (eps, eps_n, step_size, step_size_n, norm, low, high)
    move(x, grad, x0, out, *ball_and_step, ascent=STEEPEST[norm], l1_fraction=l1_fraction, exact=exact)
    return out


def pgd_step_(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float,
    step_size: float,
    norm: int,
    low: float,
    high: float,
    l1_fraction: float,
    exact: bool,
    eps_n: Tensor | None,
    step_size_n: Tensor | None,
) -> None:
    """Launcher of :func:`fastadv.pgd_step_`."""
    ball_and_step = (eps, eps_n, step_size, step_size_n, norm, low, high)
    move(x, grad, x0, x, *ball_and_step, ascent=STEEPEST[norm], l1_fraction=l1_fraction, exact=exact)


def momentum_step(
    x: Tensor,
    grad: Tensor,
    momentum: Tensor,
    x0: Tensor,
    eps: float,
    step_size: float,
    norm: int,
    low: float,
    high: float,
    l1_fraction: float,
    decay: float,
    eps_n: Tensor | None,
    step_size_n: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Launcher of :func:`fastadv.momentum_step`."""
    out, gathered = torch.empty_like(x), torch.empty_like(x)
    move(
        x,
        grad,
        x0,
        out,
        *(eps, eps_n, step_size, step_size_n, norm, low, high),
        ascent=STEEPEST[norm],
        l1_fraction=l1_fraction,
        exact=True,
        momentum=momentum,
        decay=decay,
        gathered=gathered,
    )
    return out, gathered


def bss_step(
    x: Tensor,
    grad: Tensor,
    gap: Tensor,
    active: Tensor,
    step_size: float,
    low: float,
    high: float,
    step_size_n: Tensor | None,
) -> Tensor:
    """Launcher of :func:`fastadv.bss_step`."""
    out = torch.empty_like(x)
    move_to_boundary(x, grad, out, gap, active, step_size, step_size_n, low, high)
    return out
