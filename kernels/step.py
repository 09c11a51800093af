"""One projected ascent step: pgd_step and, in place, pgd_step_. Kernels and cost: :mod:`fastadv.kernels.move`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.kernels.move import move


def pgd_step(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float,
    eps_n: Tensor | None,
    step_size: float,
    step_size_n: Tensor | None,
    norm: int,
    low: float,
    high: float,
    exact: bool,
) -> Tensor:
    """Launcher of :func:`fastadv.pgd_step`."""
    out = torch.empty_like(x)
    move(x, grad, x0, out, eps, eps_n, step_size, step_size_n, norm, low, high, ascent=norm, exact=exact)
    return out


def pgd_step_(
    x: Tensor,
    grad: Tensor,
    x0: Tensor,
    eps: float,
    eps_n: Tensor | None,
    step_size: float,
    step_size_n: Tensor | None,
    norm: int,
    low: float,
    high: float,
    exact: bool,
) -> None:
    """Launcher of :func:`fastadv.pgd_step_`."""
    move(x, grad, x0, x, eps, eps_n, step_size, step_size_n, norm, low, high, ascent=norm, exact=exact)
