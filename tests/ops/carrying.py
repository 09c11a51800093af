"""A GPU's backend behind tests that hold their tensors on the CPU: each op carries them there and its results back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastadv.ops import dispatch


@contextmanager
def carrying(backend: str, device: str) -> Iterator[None]:
    """``backend`` computes on ``device``, also what lies on the CPU."""
    refused = dispatch._wrong_device

    def wrong_device(name: str, device_type: str) -> str | None:
        return None if (name, device_type) == (backend, "cpu") else refused(name, device_type)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_wrong_device", wrong_device)
        for op in dispatch._ops.values():
            patch.setitem(op._overloads, backend, carried(op._overloads[backend], device))
        yield


def carried(overload: Any, device: str) -> Callable[..., Any]:
    """``overload`` computed on ``device`` for arguments on the CPU."""
    aliases = [argument.alias_info for argument in overload._schema.arguments]
    writes = [alias is not None and alias.is_write for alias in aliases]

    def call(*arguments: Any) -> Any:
        if not any(isinstance(value, Tensor) and value.is_cpu for value in arguments):
            return overload(*arguments)
        there = [_copied(value, device) if isinstance(value, Tensor) else value for value in arguments]
        results = overload(*there)
        for mine, copy, written in zip(arguments, there, writes, strict=False):
            if written:
                mine.untyped_storage().copy_(copy.untyped_storage())
        return tree_map_only(Tensor, Tensor.cpu, results)

    return call


def _copied(x: Tensor, device: str) -> Tensor:
    """``x`` on ``device`` with its neighbours in storage, so that alignment, strides and what lies around it stay."""
    storage = torch.UntypedStorage(x.untyped_storage().nbytes(), device=device)
    storage.copy_(x.untyped_storage())
    return torch.empty(0, dtype=x.dtype, device=device).set_(storage, x.storage_offset(), x.shape, x.stride())
