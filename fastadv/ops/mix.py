"""Interpolation between the samples of a batch: mix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastadv.ops import checks
from fastadv.ops.derivatives import (
    once_differentiable,
    refuse_second_derivatives,
    refuse_tangents,
    refuse_transforms,
)
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.reference import mix as reference


def mix(x: Tensor, lam: float | Tensor, permutation: Tensor) -> Tensor:
    """Virtual samples between samples: ``lam x + (1 - lam) x[permutation]``.

    Args:
        x: samples [N, ...], float64, float32, bfloat16 or float16.
        lam: share of the sample itself, a float or one a sample, [N]. No gradient is offered for it.
        permutation: which sample each is mixed with, [N], int64; any indices, also some of them twice. On the CPU one
            outside [0, N) is an error, on a device its sample is NaN.

    Returns:
        The mixed samples in the dtype and layout of x, differentiable w.r.t. x; in float32 to the bit of the formula.

    Raises:
        TypeError: x is not a floating-point tensor, permutation is not int64, lam is no number.
        ValueError: a shape or device is wrong, lam is NaN or requires grad, an index is out of range.

    Source: Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018; as virtual interpolation in Qu et al.,
    "Enhancing data-free adversarial distillation with activation regularization and virtual interpolation", 2021.
    """
    checks.samples("x", x)
    checks.int64("permutation", permutation, [x.shape[0]], x)
    share, shares = checks.step("lam", lam, x)
    arguments = (share, permutation.contiguous(), *_mix.tail((), shares))
    if forward_ad._current_level >= 0:
        refuse_tangents(x)
    try:
        if x.requires_grad and torch.is_grad_enabled():
            return once_differentiable(_Mix.apply(x, *arguments))
        return _mix.on(x)(*aligned(x), *arguments)
    except RuntimeError:
        refuse_transforms()
        raise


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: float, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.lam = lam
        ctx.mix_backward = mix_backward.on(x)
        ctx.traced = torch.compiler.is_compiling()
        return _mix.on(x)(*aligned(x), lam, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives(ctx)
        grad = ctx.mix_backward(*aligned(grad), ctx.lam, *ctx.saved_tensors)
        return grad, *[None] * (1 + len(ctx.saved_tensors))


def _mix_reference(x, lam, permutation, lam_n):
    return like(x, reference.mix(x, lam if lam_n is None else lam_n, permutation))


def _mix_backward_reference(grad, lam, permutation, lam_n):
    return like(grad, reference.mix_backward(grad, lam if lam_n is None else lam_n, permutation))


def _check_permutation(x, lam, permutation, lam_n):
    checks.index_values("permutation", permutation, x.shape[0])


_mix = define(
    "mix",
    family="mix",
    fake=lambda x, *_: torch.empty_like(x),
    reference=_mix_reference,
    check=_check_permutation,
)
mix_backward = define(
    "mix_backward",
    family="mix",
    fake=lambda grad, *_: torch.empty_like(grad),
    reference=_mix_backward_reference,
    check=_check_permutation,
)
