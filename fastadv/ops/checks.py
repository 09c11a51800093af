"""Argument checks of the public functions: TypeError or ValueError, naming the argument, before memory is touched.

Python numbers and tensors on the CPU are checked for value; values on a device are not, since that would wait for it.
"""

from __future__ import annotations

import math
import numbers
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastadv.near_misses import did_you_mean
from fastadv.numerics import accumulation_dtype

FLOATING = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
NORMS = {"linf": 0, "l2": 1, "l1": 2}
MODES = {"exact": True, "sequential": False}
# How far a pixel may lie outside of its box, as a share of its width: what decoding and normalising back may round.
_SLACK = 1e-4


def choice(name: str, value: Any, among: Mapping[str, Any]) -> Any:
    """Return what ``value`` stands for in ``among``."""
    try:
        return among[value]
    except (KeyError, TypeError):
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, among))}, got {value!r}{did_you_mean(value, among)}"
        ) from None


def floating(name: str, x: Tensor) -> None:
    """Require that ``x`` is a tensor of float64, float32, bfloat16 or float16."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.dtype not in FLOATING:
        raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {x.dtype}")
    if x.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got one of layout {x.layout}; call its to_dense()")


def samples(name: str, x: Tensor) -> None:
    """Require that ``x`` is a floating-point tensor [N, ...] of two dimensions or more."""
    floating(name, x)
    if x.dim() < 2:
        raise ValueError(f"{name} must have shape [N, ...] of two dimensions or more, got {list(x.shape)}")


def logits_alike(names: tuple[str, ...], x: Tensor, *others: Tensor) -> bool:
    """Require floating-point tensors [N, C], C > 0, of the first one's shape and device.

    Return whether they are contiguous and of one dtype as well, which is all that is looked at where it holds.
    """
    shape = _common_shape(x, others)
    if shape is not None and len(shape) == 2 and shape[1]:
        return True
    logits(names[0], x)
    _like_first(names, x, others)
    return False


def samples_alike(names: tuple[str, ...], x: Tensor, *others: Tensor) -> bool:
    """Require floating-point tensors [N, ...] of the first one's shape and device.

    Return whether they are contiguous and of one dtype as well, which is all that is looked at where it holds.
    """
    shape = _common_shape(x, others)
    if shape is not None and len(shape) > 1:
        return True
    samples(names[0], x)
    _like_first(names, x, others)
    return False


def _common_shape(x: Tensor, others: tuple[Tensor, ...]) -> torch.Size | None:
    """Return the shape of contiguous tensors of one floating-point dtype, one shape and one device, else None."""
    try:
        shape, dtype, device = x.shape, x.dtype, x.device
        if dtype not in FLOATING or not x.is_contiguous():
            return None
        for y in others:
            if y.dtype is not dtype or y.shape != shape or y.device != device or not y.is_contiguous():
                return None
    # What is no tensor, or a sparse one, of which PyTorch does not say whether it is contiguous.
    except (AttributeError, RuntimeError):
        return None
    return shape


def _like_first(names: tuple[str, ...], x: Tensor, others: tuple[Tensor, ...]) -> None:
    for name, y in zip(names[1:], others, strict=True):
        floating(name, y)
        same(name, y, names[0], x)


def same(name: str, y: Tensor, x_name: str, x: Tensor) -> None:
    """Require that ``y`` has the shape and the device of ``x``."""
    if y.shape != x.shape:
        raise ValueError(f"{name} must have the shape of {x_name}, {list(x.shape)}, got {list(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"{name} must be on the device of {x_name}, {x.device}, got {y.device}")


def logits(name: str, x: Tensor) -> None:
    """Require that ``x`` is a floating-point tensor [N, C] with at least one class."""
    floating(name, x)
    if x.dim() != 2 or x.shape[1] == 0:
        rows = "; give class_dim where there is one, else make it so by x.movedim(class_dim, -1).flatten(0, -2)"
        hint = rows if x.dim() > 2 else ""
        raise ValueError(f"{name} must have shape [N, C] with C > 0, got {list(x.shape)}{hint}")


def features(name: str, x: Tensor) -> None:
    """Require that ``x`` is a floating-point tensor [B, D] with at least one feature."""
    floating(name, x)
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must have shape [B, D] with D > 0, got {list(x.shape)}")


def same_batch(name: str, y: Tensor, x_name: str, x: Tensor) -> None:
    """Require that ``y`` has as many samples as ``x`` and lies on its device."""
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"{name} must have the batch of {x_name}, {x.shape[0]}, got {list(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"{name} must be on the device of {x_name}, {x.device}, got {y.device}")


def target(y: Tensor, x: Tensor, name: str = "target") -> None:
    """Require that ``y`` is an int64 tensor [N] on the device of ``x`` [N, C]; its values are the op's to check."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(y).__name__}")
    if y.dtype is not torch.int64:
        raise TypeError(f"{name} must be int64, got {y.dtype}")
    if y.dim() != 1 or y.shape[0] != x.shape[0]:
        raise ValueError(f"{name} must have shape [{x.shape[0]}], got {list(y.shape)}")
    if y.device != x.device:
        raise ValueError(f"{name} must be on the device of the logits, {x.device}, got {y.device}")


def target_values(y: Tensor, classes: int, name: str = "target") -> None:
    """Require that every value of ``y`` is a class, where that can be known without waiting for a device."""
    index_values(name, y, classes)


def classes(name: str, y: Tensor, logits: Tensor) -> None:
    """Require that ``y`` [N], int64, are classes of ``logits`` [N, C]; of values where no device is waited for."""
    target(y, logits, name)
    target_values(y, logits.shape[1], name)


def index_values(name: str, y: Tensor, count: int) -> None:
    """Require that every value of ``y`` is an index below ``count``, where a device need not be waited for."""
    known = y.device.type == "cpu" and not torch.compiler.is_compiling()
    if known and y.numel() and not bool(((y >= 0) & (y < count)).all()):
        raise ValueError(f"{name} must lie in [0, {count}), got values from {int(y.min())} to {int(y.max())}")


def positive(name: str, value: float) -> float:
    """Return ``value`` as a float above zero and finite."""
    if type(value) is float and 0 < value < math.inf:
        return value
    result = number(name, value)
    if not 0 < result < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return result


def temperature(value: float | Tensor) -> float:
    """Return a positive float, or the value of a tensor without dimensions, as a float."""
    if isinstance(value, Tensor):
        floating("temperature", value)
        if value.dim():
            raise ValueError(f"temperature must be a float or a tensor without dimensions, got {list(value.shape)}")
        constant("temperature", value)
        if value.device.type != "cpu":
            raise ValueError(
                f"temperature must be a float or on the CPU, got a tensor on {value.device}, for which the call would"
                " have to wait; pass float(temperature)"
            )
        value = value.item()
    return positive("temperature", value)


def number(name: str, value: float) -> float:
    """Return ``value`` as a float; a NaN is refused."""
    if type(value) is not float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a float, got {type(value).__name__}")
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be a float, got {value!r}, which is larger than any") from None
    if value != value:
        raise ValueError(f"{name} must be a number, got nan")
    return value


def not_negative(name: str, value: float) -> float:
    """Return ``value`` as a float of zero or more."""
    result = number(name, value)
    if result < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    return result


def integer_or_none(name: str, value: int | None) -> int | None:
    """Return ``value``, an int or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be an int or None, got {type(value).__name__}")
    return value


def flag(name: str, value: bool) -> bool:
    """Return ``value``, which must be True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
    return value


def fraction(name: str, value: float) -> float:
    """Return ``value`` as a float above zero and at most one."""
    if type(value) is float and 0 < value <= 1:
        return value
    result = number(name, value)
    if not 0 < result <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value!r}")
    return result


def share(name: str, value: float) -> float:
    """Return ``value`` as a float from zero to one."""
    result = number(name, value)
    if not 0 <= result <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return result


def radius(name: str, value: float | Tensor, x: Tensor) -> tuple[float, Tensor | None]:
    """Return a float or a tensor [N], not negative, as the schema's pair of arguments."""
    if type(value) is float and value >= 0:
        return value, None
    if isinstance(value, Tensor):
        return 0.0, per_sample(name, value, x, least=0.0)
    return not_negative(name, value), None


def step(name: str, value: float | Tensor, x: Tensor) -> tuple[float, Tensor | None]:
    """Return a float or a tensor [N] of either sign, as the schema's pair of arguments."""
    if type(value) is float and value == value:
        return value, None
    return (0.0, per_sample(name, value, x)) if isinstance(value, Tensor) else (number(name, value), None)


def per_sample(name: str, value: Tensor, x: Tensor, *, least: float = -math.inf, positive: bool = False) -> Tensor:
    """Return ``value`` [N] in the accumulation precision of ``x`` [N, ...]."""
    floating(name, value)
    if value.dim() == 0:
        value = value.expand(x.shape[0])
    if value.dim() != 1 or value.shape[0] != x.shape[0]:
        raise ValueError(f"{name} must be a float or have shape [{x.shape[0]}], got {list(value.shape)}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on the device of the samples, {x.device}, got {value.device}")
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad, but no gradient is offered for it; detach it")
    if value.device.type == "cpu" and not torch.compiler.is_compiling() and value.numel():
        # NaN where any is.
        smallest = value.min().item()
        if not (smallest > 0 if positive else smallest >= least):
            limit = "positive" if positive else "a number" if least == -math.inf else f"at least {least}"
            raise ValueError(f"{name} must be {limit} for every sample, got {smallest}")
    return value.detach().to(accumulation_dtype(x)).contiguous()


def offsets(name: str, value: Tensor, x: Tensor) -> Tensor:
    """Return ``value`` [N], finite or not, in the accumulation precision of ``x`` [N, ...]."""
    floating(name, value)
    shape(name, value, [x.shape[0]], x)
    return value.detach().to(accumulation_dtype(x)).contiguous()


def box(bounds: tuple[float | Tensor, float | Tensor] | None) -> tuple[float, float]:
    """Return the box's two bounds; infinite ones for None."""
    if bounds is None:
        return -math.inf, math.inf
    low, high = _pair(bounds)
    if type(low) is type(high) is float and low <= high:
        return low, high
    low, high = number("bounds[0]", low), number("bounds[1]", high)  # type: ignore[arg-type]
    if low > high:
        raise ValueError(f"bounds must be (low, high) with low <= high, got {bounds!r}")
    return low, high


def _pair(bounds: tuple[float | Tensor, float | Tensor]) -> tuple[float | Tensor, float | Tensor]:
    """Return two bounds, which ``bounds`` must be."""
    try:
        low, high = bounds
    except (TypeError, ValueError):
        raise TypeError(f"bounds must be None or a pair of floats, got {bounds!r}") from None
    return low, high


class _SeenInBox(threading.local):
    """The samples that a thread last saw to lie in a box, and how often they had been written to by then."""

    samples: Callable[[], Tensor | None] = staticmethod(lambda: None)
    version: int = -1
    box: tuple[float, float] = (math.nan, math.nan)


_seen_in_box = _SeenInBox()


def has_tensor(bounds: tuple[float | Tensor, float | Tensor]) -> bool:
    """Return whether one of two bounds is a tensor."""
    return any(isinstance(bound, Tensor) for bound in _pair(bounds))


def broadcasting(name: str, value: Tensor, x: Tensor) -> list[int]:
    """Return the shape, with as many dimensions as samples ``x`` [N, ...], in which ``value`` broadcasts to them."""
    padded = [1] * (x.dim() - value.dim()) + list(value.shape)
    if len(padded) > x.dim() or any(size not in (1, full) for size, full in zip(padded, x.shape, strict=True)):
        raise ValueError(f"{name} must broadcast to the samples, {list(x.shape)}, got {list(value.shape)}")
    return padded


def _over_samples(name: str, bound: float | Tensor, x: Tensor) -> float | Tensor:
    """Return a bound that broadcasts to ``x`` [N, ...], as one [N] does not."""
    if not isinstance(bound, Tensor):
        return bound
    bound = bound.view(-1, *[1] * (x.dim() - 1)) if bound.dim() == 1 else bound
    broadcasting(name, bound, x)
    return bound


def in_box(name: str, x: Tensor, bounds: tuple[float | Tensor, float | Tensor] | None) -> None:
    """Require that samples ``x`` [N, ...] lie in ``bounds``, where that can be known without waiting for a device.

    To look costs a pass over x. The steps of a loop hand in the same x, unwritten, and only the first of them looks.
    """
    if bounds is None or torch.compiler.is_compiling():
        return
    seen, numbers = _seen_in_box, not has_tensor(bounds)
    if numbers and seen.samples() is x and seen.version == x._version and seen.box == bounds:
        return
    if x.device.type != "cpu" or not x.numel():
        return
    span_in_box(name, x, bounds, *(value.item() for value in x.detach().aminmax()))
    # Of an inference tensor nobody counts the writes.
    if numbers and not x.is_inference():
        seen.samples, seen.version, seen.box = weakref.ref(x), x._version, box(bounds)


def span_in_box(name: str, x: Tensor, bounds: tuple[float | Tensor, float | Tensor], least: float, most: float) -> None:
    """Require that samples ``x`` [N, ...] with values from ``least`` to ``most`` lie in ``bounds``."""
    rounding = torch.finfo(x.dtype).eps / 2
    if has_tensor(bounds):
        low, high = (_over_samples(f"bounds[{index}]", bound, x) for index, bound in enumerate(bounds))
        slack = _SLACK * (high - low) + rounding * max(abs(least), abs(most))
        outside, where = bool(((x < low - slack) | (x > high + slack)).any()), ""
    else:
        low, high = box(bounds)
        slack = _SLACK * (high - low) + rounding * max(abs(low), abs(high))
        outside, where = least < low - slack or most > high + slack, f", {(low, high)}"
    if outside:
        raise ValueError(
            f"{name} must lie in bounds{where}, got values from {least:.4g} to {most:.4g}: images are pixels in "
            "[0, 1], and the model normalises them (fastadv.attacks.Normalized); bounds=None is no box"
        )


def constant(name: str, x: Tensor) -> None:
    """Require that ``x`` needs no gradient, since none is offered for it."""
    if x.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires grad, but no gradient is offered for it; detach it")


def number_or(name: str, value: float | str, word: str) -> float | None:
    """Return ``value`` as a float, or None for the one ``word`` that stands for a rule."""
    if isinstance(value, str):
        if value != word:
            raise ValueError(f"{name} must be a float or {word!r}, got {value!r}")
        return None
    return number(name, value)


def shape(name: str, x: Tensor, expected: list[int], like: Tensor) -> None:
    """Require that ``x`` has the expected shape and the device of ``like``."""
    if list(x.shape) != expected:
        raise ValueError(f"{name} must have shape {expected}, got {list(x.shape)}")
    if x.device != like.device:
        raise ValueError(f"{name} must be on device {like.device}, got {x.device}")


def int64(name: str, x: Tensor, expected: list[int], like: Tensor) -> None:
    """Require that ``x`` is an int64 tensor of the expected shape on the device of ``like``."""
    if not isinstance(x, Tensor) or x.dtype is not torch.int64:
        raise TypeError(f"{name} must be an int64 tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    shape(name, x, expected, like)


def boolean(name: str, x: Tensor, expected: list[int], like: Tensor) -> None:
    """Require that ``x`` is a bool tensor of the expected shape on the device of ``like``."""
    if not isinstance(x, Tensor) or x.dtype is not torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    shape(name, x, expected, like)


def seed(value: int | Tensor, x: Tensor) -> tuple[int, Tensor | None]:
    """Return an int of 64 bits or an int64 tensor without dimensions, as the schema's pair of arguments."""
    if isinstance(value, Tensor):
        int64("seed", value, [], x)
        return 0, value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"seed must be an int or an int64 tensor, got {type(value).__name__}")
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"seed must fit in 64 bits, got {value}")
    return value - 2**64 if value >= 2**63 else value, None
