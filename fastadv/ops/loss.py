"""Common to all losses: weights and reductions, and the one autograd.Function that joins forward and backward.

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

from fastadv.numerics import accumulate, accumulation_dtype, per_sample
from fastadv.ops import checks
from fastadv.ops.derivatives import (
    once_differentiable,
    refuse_second_derivatives,
    refuse_tangents,
    refuse_transforms,
)
from fastadv.ops.dispatch import Op, define
from fastadv.ops.layout import aligned, widest

REDUCTIONS = {"none": 0, "sum": 1, "batchmean": 2, "mean": 3}


def reduction_scale(reduction: str, x: Tensor, *, over_classes: bool = False) -> tuple[float, bool]:
    """Return the factor by which a reduction of the losses of ``x`` [N, ...] multiplies, and whether it sums them.

    "none" and "sum" have factor 1, "batchmean" 1 / N, and so has "mean"; ``over_classes`` makes that 1 / (N C). NaN for
    an empty batch, whose mean is undefined.
    """
    kind = checks.choice("reduction", reduction, REDUCTIONS)
    if kind < 2:
        return 1.0, kind == 1
    count = x.shape[0] * x.shape[1] if over_classes and kind == 3 else x.shape[0]
    return 1.0 / count if count else float("nan"), True


def weighted_reduction(
    reduction: str, weight: float | Tensor | None, inputs: tuple[Tensor, ...], *, over_classes: bool = False
) -> tuple[tuple[float, bool], tuple[Tensor, ...]]:
    """Return :func:`reduction_scale`, times a ``weight`` that is a float, and one [N] as an op's optional argument."""
    scale, reduce = reduction_scale(reduction, inputs[0], over_classes=over_classes)
    if weight is None:
        return (scale, reduce), ()
    if isinstance(weight, Tensor):
        return (scale, reduce), (checks.per_sample("weight", weight, widest(*inputs)),)
    return (scale * checks.number("weight", weight), reduce), ()


def evaluate(
    op: Op,
    inputs: tuple[Tensor, ...],
    arguments: tuple[Any, ...],
    reduction: tuple[float, bool] | tuple[()],
    optional: tuple[Tensor, ...] = (),
    *,
    dense: bool = False,
) -> Tensor:
    """Return the loss that ``op`` computes, differentiable w.r.t. ``inputs``.

    ``arguments`` are all others that come before scale and reduction, ``reduction`` these two where the op has them,
    ``optional`` the arguments behind the flags of the gradients, which may be left out. ``dense`` says that the inputs
    are contiguous and of one dtype.
    """
    if reduction and torch.compiler.is_compiling():
        # Handed to the op, the factor of a mean would fix the batch size in what is compiled.
        scale, reduce = reduction
        return scale * _evaluate(op, inputs, (*arguments, 1.0, reduce), optional, dense)
    return _evaluate(op, inputs, (*arguments, *reduction), optional, dense)


def _evaluate(
    op: Op, inputs: tuple[Tensor, ...], arguments: tuple[Any, ...], optional: tuple[Tensor, ...], dense: bool
) -> Tensor:
    if forward_ad._current_level >= 0:
        refuse_tangents(*inputs)
    try:
        for x in inputs:
            if x.requires_grad and torch.is_grad_enabled():
                needs_grad = [x.requires_grad for x in inputs]
                value = _Loss.apply((op, (*arguments, *_tail(needs_grad, optional)), dense), *inputs)
                return once_differentiable(value)
        tensors = inputs if dense else aligned(*inputs)
        flags_and_optional = (*[False] * len(inputs), *optional) if optional else ()
        return op.on(tensors[0])(*tensors, *arguments, *flags_and_optional)[0]
    except RuntimeError:
        refuse_transforms()
        raise


def _tail(needs_grad: Sequence[bool], optional: tuple[Tensor, ...]) -> Sequence[Any]:
    """Return flags of the gradients and optional tensors, without what PyTorch fills in: see :meth:`Op.tail`."""
    if optional:
        return *needs_grad, *optional
    while needs_grad and not needs_grad[-1]:
        needs_grad = needs_grad[:-1]
    return needs_grad


def value_and_grad(
    op: Op,
    inputs: tuple[Tensor, ...],
    arguments: tuple[Any, ...],
    needs_grad: tuple[bool, ...],
    optional: tuple[Tensor, ...] = (),
    *,
    scale: float = 1.0,
    dense: bool = False,
) -> tuple[Any, ...]:
    """Return the loss [N] and its gradients w.r.t. ``inputs``, None where one is not needed; see :func:`evaluate`.

    ``arguments`` are those before scale and reduction.
    """
    tensors = inputs if dense else aligned(*inputs)
    try:
        return op.on(tensors[0])(*tensors, *arguments, scale, False, *_tail(needs_grad, optional))
    except RuntimeError:
        refuse_transforms()
        raise


def pair(
    op: Op, inputs: tuple[Tensor, Tensor], arguments: tuple[Any, ...], teacher_grad: bool, *, dense: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`value_and_grad` of a loss between student and teacher."""
    needs_grad = (True, checks.flag("teacher_grad", teacher_grad))
    value, grad_student, grad_teacher = value_and_grad(op, inputs, arguments, needs_grad, dense=dense)
    return value, grad_student, grad_teacher


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: tuple[Op, tuple[Any, ...], bool], *inputs: Tensor) -> Tensor:
        # One argument for all that is no input, since PyTorch looks into every one for tensors.
        op, arguments, dense = call
        tensors = inputs if dense else aligned(*inputs)
        loss, *grads = op.on(tensors[0])(*tensors, *arguments)
        ctx.save_for_backward(*grads)
        ctx.dtypes = [x.dtype for x in inputs]
        ctx.scale_grad = scale_grad.on(loss)
        ctx.traced = torch.compiler.is_compiling()
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives(ctx)
        unscaled = _is_one(grad_output) and not _graph_is_kept()
        grads: list[Tensor | None] = [None]
        for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True):
            if grad is None:
                grads.append(None)
            elif dtype is not grad.dtype or grad_output.dim():
                grads.append(ctx.scale_grad(grad, grad_output.contiguous(), dtype))
            else:
                grads.append(grad if unscaled else grad * grad_output)
        return tuple(grads)


def _is_one(x: Tensor) -> bool:
    """Return whether ``x`` is the 1 that ``loss.backward()`` starts from, where that is known without waiting."""
    plain = type(x) is Tensor and x.dim() == 0 and x.is_cpu
    return plain and not torch.compiler.is_compiling() and x.item() == 1


def _graph_is_kept() -> bool:
    """Return whether the running backward pass may be repeated, and must not give away what the graph has stored."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def finish(loss: Tensor, grads: Sequence[Tensor], scale: float, reduce: bool, *rest: Any) -> tuple[Tensor | None, ...]:
    """Return a reference's ``loss`` [N] and ``grads`` [N, ...] as the loss ops do: weighted, scaled, reduced.

    ``rest`` is which gradients are needed, and the weight.
    """
    *needs_grad, weight = rest
    factor = torch.full_like(loss, scale) if weight is None else scale * weight
    loss = factor * loss
    # The mean of nothing, whose scale is NaN, is NaN.
    return loss.sum() + 0 * scale if reduce else loss, *(
        per_sample(factor, grad) * grad if needed else None for grad, needed in zip(grads, needs_grad, strict=True)
    )


def fake(inputs: tuple[Tensor, ...], reduce: bool, *needs_grad: Any) -> tuple[Tensor | None, ...]:
    """The shapes of :func:`finish`; what follows the flags does not matter."""
    dtype = accumulation_dtype(inputs[0])
    loss = inputs[0].new_empty([] if reduce else [inputs[0].shape[0]], dtype=dtype)
    return loss, *(
        torch.empty_like(x, dtype=dtype) if needed else None for x, needed in zip(inputs, needs_grad, strict=False)
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
