"""Memory layouts of test inputs, and the guarded buffers they lie in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Strides = tuple[int, ...]
_MARGIN = 37
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def _plain(shape: torch.Size) -> Strides:
    return torch.empty(shape, device="meta").stride()


def _channels_last(shape: torch.Size) -> Strides:
    memory_format = _CHANNELS_LAST.get(len(shape), torch.contiguous_format)
    return torch.empty(shape, device="meta", memory_format=memory_format).stride()


def _transposed(shape: torch.Size) -> Strides:
    return _plain(shape[::-1])[::-1]


def _gaps(shape: torch.Size) -> Strides:
    return tuple(2 * stride for stride in _plain(shape))


def _broadcast(shape: torch.Size) -> Strides:
    return (0, *_plain(shape)[1:]) if shape else ()


# The strides of the inputs of an op, in turn.
LAYOUTS: dict[str, tuple[Callable[[torch.Size], Strides], ...]] = {
    "contiguous": (_plain,),
    "channels_last": (_channels_last,),
    "transposed": (_transposed,),
    "gaps": (_gaps,),
    "broadcast": (_plain, _broadcast),
    "broadcast_first": (_broadcast, _plain),
    "mixed": (_plain, _channels_last, _transposed, _gaps),
    "mixed_channels_last": (_channels_last, _plain, _gaps, _transposed),
}


class Guarded:
    """Places tensors inside larger buffers, and knows whether anyone has written into these since.

    Around a tensor lie NaN, or for classes numbers that are none, so that reading too far shows as well.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def place(self, values: dict[str, Tensor], layout: str = "contiguous") -> dict[str, Tensor]:
        rules = LAYOUTS[layout]
        return {
            name: self._place(value, rules[index % len(rules)](value.shape))
            for index, (name, value) in enumerate(values.items())
        }

    def _place(self, values: Tensor, strides: Strides) -> Tensor:
        guard = float("nan") if values.is_floating_point() else -(2**40)
        reach = sum((size - 1) * stride for size, stride in zip(values.shape, strides, strict=True) if size)
        buffer = torch.full([2 * _MARGIN + reach + 1], guard, dtype=values.dtype, device=self._device)
        tensor = buffer.as_strided(values.shape, strides, _MARGIN)
        if strides and strides[0] == 0:
            tensor[:1].copy_(values[:1])
        else:
            tensor.copy_(values)
        self._buffers.append((buffer, buffer.clone()))
        return tensor

    def assert_untouched(self) -> None:
        for buffer, before in self._buffers:
            assert torch.equal(buffer.view(torch.uint8), before.view(torch.uint8)), "an input buffer was written to"
