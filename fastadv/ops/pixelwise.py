"""Radii, step sizes and bounds for each channel or pixel, and masks, by way of the ops that take one number a sample.

linf treats every pixel by itself, so a run of pixels that share their numbers can stand for a sample: one for each
channel of an image, or for each pixel. A mask puts the other pixels back to x0, where no gradient moves them and a
projection keeps them. Everything here is computed in the accumulation precision and rounded once.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from fastadv.numerics import accumulate, accumulation_dtype
from fastadv.ops import checks
from fastadv.ops.dispatch import like

Bounds = tuple[float | Tensor, float | Tensor] | None


def given(mask: Tensor | None, bounds: Bounds, *numbers: float | Tensor) -> bool:
    """Return whether there is a mask, a bound that is a tensor, or a number with more dimensions than [N]."""
    if mask is not None:
        return True
    for value in numbers:
        if isinstance(value, Tensor) and value.dim() > 1:
            return True
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        return False
    return isinstance(bounds[0], Tensor) or isinstance(bounds[1], Tensor)


def widened(x0: Tensor, *others: Tensor) -> Tensor:
    """Return ``x0`` in the widest dtype of them all, in which numbers are made for it."""
    return x0.to(functools.reduce(torch.promote_types, (each.dtype for each in others), x0.dtype))


class Pixels:
    """The clean samples ``x0`` [N, ...] as rows [R, D] that the ops take for samples, with what is given for them.

    Attributes:
        x0: [R, D], in the accumulation precision.
        by_sample: a row is a sample.
        numbers: ``numbers`` as the ops take them for the rows, a float or [R].
        bounds: the box that the op applies, None where :meth:`restored` applies it.
    """

    def __init__(self, x0: Tensor, norm: str, bounds: Bounds, mask: Tensor | None, **numbers: float | Tensor) -> None:
        self._shape = x0.shape
        self.bounds, self._box = _box(bounds, x0, norm)
        tensors = {name: _aligned(name, value, x0) for name, value in numbers.items() if isinstance(value, Tensor)}
        # Numbers that differ in the dimensions before this one alone are shared by runs of pixels.
        ends = [d + 1 for value in tensors.values() for d, size in enumerate(value.shape) if size > 1]
        end = max(1, *ends) if ends else 1
        if end > 1 and norm != "linf":
            name = next(name for name, value in tensors.items() if value[:1].numel() > 1)
            raise ValueError(
                f"{name} must be a float or have shape [{x0.shape[0]}] for norm={norm!r}, got one for each channel or"
                " pixel, which is of norm='linf' alone"
            )
        leading = x0.shape[:end]
        self.by_sample = end == 1
        self._size = (math.prod(leading), math.prod(x0.shape[end:]))
        ones = [1] * (x0.dim() - end)
        self.numbers: dict[str, Any] = numbers | {
            n: value.expand(*leading, *ones).reshape(-1) for n, value in tensors.items()
        }
        self.x0 = self.rows(x0)
        self._free = None if mask is None else self.rows(_mask(mask, x0))

    def inside(self, x: Tensor) -> Tensor:
        """Return ``x`` as rows, and x0 where the mask lets nothing move."""
        rows = self.rows(x)
        return rows if self._free is None else torch.where(self._free, rows, self.x0)

    def moving(self, grad: Tensor) -> Tensor:
        """Return ``grad`` as rows, and zero where the mask lets nothing move."""
        rows = self.rows(grad)
        return rows if self._free is None else torch.where(self._free, rows, 0)

    def each_row(self, value: Tensor) -> Tensor:
        """Return one number a sample, [N], as one a row."""
        return value.repeat_interleave(self._size[0] // max(value.shape[0], 1))

    def restored(self, rows: Tensor, x: Tensor) -> Tensor:
        """Return ``rows`` in the box, and in the shape, the dtype and the layout of ``x``."""
        result = rows.view(self._shape)
        if self._box is not None:
            low, high = self._box
            result = torch.minimum(torch.maximum(result, low), high)
        return like(x, result)

    def rows(self, x: Tensor) -> Tensor:
        """Return ``x`` [N, ...] as rows [R, D], in the accumulation precision."""
        x = x.detach().contiguous().view(self._size)
        return x if x.dtype is torch.bool else accumulate(x)


def _aligned(name: str, value: Tensor, x: Tensor) -> Tensor:
    """Return ``value``, which broadcasts to ``x`` or is [N], with as many dimensions as ``x``."""
    checks.floating(name, value)
    if value.dim() < 2:
        value = checks.per_sample(name, value, x).view(-1, *[1] * (x.dim() - 1))
    padded = checks.broadcasting(name, value, x)
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of the samples, {x.device}, got {value.device}")
    checks.constant(name, value)
    if value.device.type == "cpu" and not torch.compiler.is_compiling() and value.numel():
        # NaN where any is.
        smallest = value.min().item()
        if name == "eps" and not smallest >= 0:
            raise ValueError(f"eps must be at least 0.0 for every pixel, got {smallest}")
        if smallest != smallest:
            raise ValueError(f"{name} must be a number for every pixel, got nan")
    return accumulate(value.detach()).view(padded)


def _mask(mask: Tensor, x: Tensor) -> Tensor:
    """Return the pixels that may move as a bool tensor of the shape of ``x``."""
    if not isinstance(mask, Tensor) or not (mask.dtype is torch.bool or mask.is_floating_point()):
        raise TypeError(f"mask must be a bool or a floating-point tensor, got {_dtype(mask)}")
    if mask.device != x.device:
        raise ValueError(f"mask must be on the device of the samples, {x.device}, got {mask.device}")
    try:
        return (mask.detach() != 0).expand(x.shape)
    except RuntimeError:
        raise ValueError(f"mask must broadcast to the samples, {list(x.shape)}, got {list(mask.shape)}") from None


def _dtype(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _box(bounds: Bounds, x: Tensor, norm: str) -> tuple[tuple[float, float] | None, tuple[Tensor, Tensor] | None]:
    """Return the box as floats for an op, or as tensors that broadcast to ``x`` and are applied behind it."""
    if bounds is None or not checks.has_tensor(bounds):
        checks.box(bounds)
        return bounds, None  # type: ignore[return-value]
    if norm != "linf":
        raise ValueError(f"bounds must be floats for norm={norm!r}: those for each channel or pixel are of linf alone")
    low, high = (
        _aligned(f"bounds[{index}]", bound, x)
        if isinstance(bound, Tensor)
        else torch.full(
            [1] * x.dim(), checks.number(f"bounds[{index}]", bound), dtype=accumulation_dtype(x), device=x.device
        )
        for index, bound in enumerate(bounds)
    )
    known = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if known and not bool((low <= high).all()):
        raise ValueError("bounds must be (low, high) with low <= high for every pixel")
    return None, (low, high)
