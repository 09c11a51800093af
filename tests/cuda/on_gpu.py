"""The public functions on a GPU, for tests that hold everything else on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class OnGpu:
    """The functions of ``library`` with tensors copied to the GPU, as they lie in their storage, and results back."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._library, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            there = [_to_gpu(value) for value in arguments]
            result = function(*there, **{key: _to_gpu(value) for key, value in keywords.items()})
            if name.endswith("_"):
                arguments[0].copy_(result)
                return arguments[0]
            return tuple(map(_to_cpu, result)) if isinstance(result, tuple) else _to_cpu(result)

        return call


def _to_gpu(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.requires_grad:
        return value.cuda()
    # With its neighbours, so that alignment and strides stay.
    storage = value.untyped_storage().cuda()
    return torch.empty(0, dtype=value.dtype, device="cuda").set_(
        storage, value.storage_offset(), value.shape, value.stride()
    )


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value
