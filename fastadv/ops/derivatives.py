"""The derivatives that the ops do not offer, and how each is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def refuse_tangents(*inputs: Tensor) -> None:
    """Raise where an input has a tangent: forward mode would pass the op by and find its derivative to be zero."""
    if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        raise RuntimeError("fastadv offers no forward-mode derivatives: jvp and dual tensors cannot be used with it")


def refuse_transforms() -> None:
    """Raise inside a transform of torch.func, for which the ops have no rules; to be called where one has failed."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "fastadv's ops cannot be used inside torch.func's grad, vmap, jacrev and the like: differentiate with"
            " torch.autograd.grad, and give a batch as the first dimension in place of vmap"
        ) from None


def refuse_second_derivatives(ctx: Any) -> None:
    """Raise in a backward pass that records a graph; ``ctx.traced`` tells whether a compiler traced the forward pass.

    torch's once_differentiable would raise only where the incoming gradient requires grad, and else leave terms out.
    To ask here whether a compiler is at work would not do: Dynamo compiles a backward pass that runs by itself, too.
    """
    if torch.is_grad_enabled() and not ctx.traced:
        raise RuntimeError("fastadv offers no second derivatives: its losses and mix refuse create_graph=True")


def once_differentiable(x: Tensor) -> Tensor:
    """Return ``x``, whose backward pass refuses to record a graph under torch.compile too.

    Dynamo runs the backward pass that it has captured without recording, whatever the caller asked for, so that terms
    would be missing from a second derivative.
    """
    if not torch.compiler.is_compiling():
        return x
    # Only where Dynamo is at work: to import it takes as long as to import torch.
    from fastadv.ops.opaque import once_differentiable_in_graph

    return once_differentiable_in_graph(x)
