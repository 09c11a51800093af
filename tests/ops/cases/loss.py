"""scale_grad, the backward pass of every loss."""

from __future__ import annotations

import torch

from tests.ops.cases.case import Case, Draw, Size, Tensors


def _stored(draw: Draw, size: Size) -> Tensors:
    # Gradients are stored in the accumulation precision, whatever they are rounded to.
    wide = Draw(torch.float64 if draw.dtype == torch.float64 else torch.float32)
    return {"grad": wide.normal(size), "factor": wide.normal(size[:1])}


CASES = (
    Case(
        name="scale_grad-per-sample",
        kind="scale",
        sizes="logits",
        make=_stored,
        call=lambda library, t: library.scale_grad(t["grad"].contiguous(), t["factor"].contiguous(), t["grad"].dtype),
    ),
    Case(
        name="scale_grad-one",
        kind="scale",
        sizes="logits",
        make=_stored,
        call=lambda library, t: library.scale_grad(t["grad"].contiguous(), t["factor"][:1].sum(), t["grad"].dtype),
    ),
)
