"""What Dynamo puts into its graphs without looking into it. Importing this imports Dynamo, which takes seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastadv.ops.derivatives import refuse_second_derivatives


class _OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.traced = torch.compiler.is_compiling()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivatives(ctx)
        return grad


@torch.compiler.allow_in_graph
def once_differentiable_in_graph(x: Tensor) -> Tensor:
    """Return ``x``, whose backward pass refuses to record a graph."""
    return _OnceDifferentiable.apply(x)
