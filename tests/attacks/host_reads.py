"""Finds what makes the host wait for a device, on a machine without one."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class HostReads(TorchDispatchMode):
    """Records every operation that the host waits for: a value, a shape that depends on values, a copy either way.

    On the CPU these read memory that is there; on a device each would wait for everything queued before it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self._waits(func, given, result) or self._sends(func, args, kwargs or {}, result):
            self.found.append(str(func))
        return result

    @staticmethod
    def _sends(func, args, kwargs, result: object) -> bool:
        """Return whether a tensor of the host's goes to the device, which it does after all that is queued there."""
        if func not in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            return False
        source = args[0] if func is torch.ops.aten._to_copy.default else args[1]
        given = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        return source.device.type == "cpu" != result.device.type and not given

    @staticmethod
    def _waits(func, given: list[Tensor], result: object) -> bool:
        if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default):
            return any(x.dtype in (torch.bool, torch.uint8) for x in given[1:])
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            return True
        if func is torch.ops.aten.copy_.default:
            return given[0].device.type == "cpu" != given[1].device.type
        on_host = any(x.device.type == "cpu" for x in tree_leaves(result) if isinstance(x, Tensor))
        return on_host and any(x.device.type != "cpu" for x in given)
