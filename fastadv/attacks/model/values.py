"""Values with which an attack would say nothing about a model: pixels outside of the box, NaN and infinity.

They are looked at where nothing waits for it, on a CPU, and on a device where the caller asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fastadv.ops import checks
from fastadv.ops.pixelwise import Bounds


class NotFiniteError(ValueError):
    """A parameter, an image or a logit is NaN or infinite."""


def readable(x: Tensor, check: bool | None) -> bool:
    """Return whether to look at values of ``x``: where ``check`` says so, for None on a CPU."""
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return False
    return x.device.type == "cpu" if check is None else checks.flag("check", check)


def check_images(x: Tensor, bounds: Bounds) -> bool:
    """Raise ValueError where images ``x`` [N, ...] are NaN or infinite, or lie outside of ``bounds``.

    A little outside is let pass; returns whether all are known to lie inside.
    """
    if not x.numel():
        return True
    least, most = (value.item() for value in x.aminmax())
    if not (torch.finfo(x.dtype).min <= least and most <= torch.finfo(x.dtype).max):
        raise NotFiniteError(f"x must be finite, got NaN or infinity in {_places('image', x.isfinite().flatten(1))}")
    if bounds is None:
        return True
    checks.span_in_box("x", x, bounds, least, most)
    low, high = bounds
    return not isinstance(low, Tensor) and not isinstance(high, Tensor) and low <= least and most <= high


def check_finite(name: str, value: Tensor) -> None:
    """Raise NotFiniteError where ``value`` [N, ...] of the argument ``name`` is NaN or infinite."""
    finite = value.isfinite()
    if not finite.all():
        raise NotFiniteError(f"{name} must be finite, got NaN or infinity in {_places('row', finite.flatten(1))}")


def check_output(output: Tensor, modules: Callable[[], Iterable[nn.Module]], copies: int) -> None:
    """Raise NotFiniteError where ``output`` [N * copies, ...] of a model is NaN or infinite, and name the cause.

    The cause is a parameter or buffer of ``modules()``, or else the images that give such logits.
    """
    # A single NaN or infinity makes the sum one, of which there is one to look at. So may finite logits, by overflow.
    if output.dtype.is_floating_point and math.isfinite(output.sum().item()):
        return
    finite = output.isfinite()
    if finite.all():
        return
    for module in modules():
        name = not_finite(module)
        if name is not None:
            raise NotFiniteError(f"model must be finite, got NaN or infinity in its {name}")
    images = finite.reshape(output.shape[0] // copies, -1)
    raise NotFiniteError(f"model must give finite logits, got NaN or infinity for {_places('image', images)}")


def not_finite(module: nn.Module) -> str | None:
    """Return the name of the first parameter or buffer of ``module`` that is not finite, None where all are."""
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, tensor in tensors:
            if tensor.is_floating_point() and not tensor.isfinite().all():
                return f"{kind} {name}"
    return None


def _places(what: str, finite: Tensor) -> str:
    """Return the first of the rows of ``finite`` [N, M] that do not hold throughout, in words."""
    places = (~finite.all(1)).nonzero().flatten().tolist()
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{what} {places[0]} of the batch{more}"
