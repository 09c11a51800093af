"""What the losses share: weights and reductions, and the one autograd.Function that joins forward and backward.

A loss op computes the value and, in the same pass, the gradients that will be needed, kept in the accumulation
precision (in half precision many of them would underflow before a gradient scaler's factor arrives). The backward pass
is one for all losses: it multiplies by the incoming gradient and rounds to the dtype of the input, which is the op
``scale_grad`` wherever one multiplication by a number is not all there is to it. Where that would change nothing, it is
left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastadv.ops import checks
from fastadv.ops.dispatch import Op, define
from fastadv.ops.layout import aligned, widest
from fastadv.reference._common import accumulate, per_sample

REDUCTIONS = {"none": 0, "sum": 1, "batchmean": 2, "mean": 3}


def reduction_scale(reduction: str, x: Tensor, *, mean_over: int = 1) -> tuple[float, bool]:
    """The factor a reduction of the losses of ``x`` [N, ...] multiplies with, and whether it sums over the batch.

    "none" and "sum" have factor 1, "batchmean" 1 / N, "mean" 1 / (N ``mean_over``); NaN for an empty batch, whose mean
    is undefined.
    """
    kind = checks.choice("reduction", reduction, REDUCTIONS)
    if kind < 2:
        return 1.0, kind == 1
    count = x.shape[0] * (mean_over if kind == 3 else 1)
    return 1.0 / count if count else float("nan"), True


def evaluate(
    op: Op, inputs: tuple[Tensor, ...], arguments: tuple[Any, ...], weight: Tensor | None, scale: float, reduce: bool
) -> Tensor:
    """The loss that ``op`` computes of ``inputs`` (the tensors that may want a gradient) and ``arguments``."""
    if weight is not None:
        weight = checks.per_sample("weight", weight, widest(*inputs))
    return differentiable(op, inputs, (*arguments, weight, scale, reduce))


def differentiable(op: Op, inputs: tuple[Tensor, ...], arguments: tuple[Any, ...]) -> Tensor:
    """The loss that ``op`` computes, differentiable by ``inputs``; ``arguments`` are all others."""
    if forward_ad._current_level >= 0:
        refuse_tangents(*inputs)
    wanted = [x.requires_grad for x in inputs]
    if True in wanted and torch.is_grad_enabled():
        return _Loss.apply(op, (*arguments, *wanted), wanted, *inputs)
    return op(*aligned(*inputs), *arguments, *[False] * len(inputs))[0]


def refuse_tangents(*inputs: Tensor) -> None:
    """Forward-mode differentiation would pass an op by and find its derivative to be zero."""
    if any(forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        raise RuntimeError("fastadv offers no forward-mode derivatives: jvp and dual tensors cannot be used with it")


def value_and_grad(
    op: Op, inputs: tuple[Tensor, ...], arguments: tuple[Any, ...], wanted: tuple[bool, ...], scale: float = 1.0
) -> tuple[Tensor, ...]:
    """The loss [N] of each sample and its gradients by ``inputs``, an empty tensor for one that is not wanted."""
    return op(*aligned(*inputs), *arguments, None, scale, False, *wanted)


def pair(
    op: Op, student: Tensor, teacher: Tensor, arguments: tuple[Any, ...], teacher_grad: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`value_and_grad` of a loss between two networks; None for the teacher's gradient unless it is wanted."""
    checks.flag("teacher_grad", teacher_grad)
    value, student_grad, by_teacher = value_and_grad(op, (student, teacher), arguments, (True, teacher_grad))
    return value, student_grad, by_teacher if teacher_grad else None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: Op, arguments: tuple[Any, ...], wanted: list[bool], *inputs: Tensor) -> Tensor:
        loss, *grads = op(*aligned(*inputs), *arguments)
        ctx.save_for_backward(*grads)
        ctx.wanted = wanted
        ctx.dtypes = [x.dtype for x in inputs]
        ctx.scale_grad = scale_grad.in_force(loss)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # torch's once_differentiable would raise only where grad_output requires grad, and else leave terms out.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("fastadv offers no second derivatives: its losses cannot be used with create_graph=True")
        unscaled = _is_one(grad_output) and not _graph_is_kept()
        grads: list[Tensor | None] = [None, None, None]
        for grad, want, dtype in zip(ctx.saved_tensors, ctx.wanted, ctx.dtypes, strict=True):
            if not want:
                grads.append(None)
            elif dtype is not grad.dtype or grad_output.dim():
                grads.append(ctx.scale_grad(grad, grad_output.contiguous(), dtype))
            else:
                grads.append(grad if unscaled else grad * grad_output)
        return tuple(grads)


def _is_one(x: Tensor) -> bool:
    """Whether ``x`` is the number that ``loss.backward()`` starts from, as far as that is known without waiting."""
    plain = type(x) is Tensor and x.dim() == 0 and x.is_cpu
    return plain and not torch.compiler.is_compiling() and x.item() == 1


def _graph_is_kept() -> bool:
    """Whether the running backward pass may be repeated, and must not give away what the graph has stored."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def finish(
    loss: Tensor, grads: Sequence[Tensor], weight: Tensor | None, scale: float, reduce: bool, *wanted: bool
) -> tuple[Tensor, ...]:
    """Per-sample ``loss`` [N] and ``grads`` [N, ...] of a reference, as the loss ops return them."""
    factor = torch.full_like(loss, scale) if weight is None else scale * weight
    loss = factor * loss
    # The mean of nothing, whose scale is NaN, is NaN.
    return loss.sum() + 0 * scale if reduce else loss, *(
        per_sample(factor, grad) * grad if want else grad.new_empty(0) for grad, want in zip(grads, wanted, strict=True)
    )


def fake(inputs: tuple[Tensor, ...], reduce: bool, *wanted: bool) -> tuple[Tensor, ...]:
    """The shapes of :func:`finish`."""
    dtype = torch.float64 if inputs[0].dtype == torch.float64 else torch.float32
    loss = inputs[0].new_empty([] if reduce else [inputs[0].shape[0]], dtype=dtype)
    return loss, *(
        torch.empty_like(x, dtype=dtype) if want else x.new_empty(0, dtype=dtype)
        for x, want in zip(inputs, wanted, strict=True)
    )


def _scale_grad_reference(grad: Tensor, grad_output: Tensor, dtype: torch.dtype) -> Tensor:
    factor = accumulate(grad_output).to(grad.dtype)
    return (grad * (per_sample(factor, grad) if factor.dim() else factor)).to(dtype)


scale_grad = define(
    "scale_grad",
    family="loss",
    fake=lambda grad, grad_output, dtype: torch.empty_like(grad, dtype=dtype),
    reference=_scale_grad_reference,
)
