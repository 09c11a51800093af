"""The networks under attack, as one function from images to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastadv.ops import checks

Network = Callable[[Tensor], Tensor]


class Networks:
    """One network or several attacked together; calling it gives the tuple of their logits.

    Raises TypeError for what cannot be called, ValueError for an empty sequence.
    """

    def __init__(self, model: Network | Sequence[Network]) -> None:
        self.together = isinstance(model, (list, tuple, nn.ModuleList))
        members: Any = model if self.together else (model,)
        self.members = tuple(unwrapped(member) for member in members)
        if not self.members:
            raise ValueError("model must hold at least one network, got an empty sequence")
        for member in self.members:
            if not callable(member):
                raise TypeError(f"model must be a callable or a sequence of them, got {type(member).__name__}")
        self._dtypes = [_parameter_dtype(member) for member in self.members]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            member(x if dtype is None else x.to(dtype))
            for member, dtype in zip(self.members, self._dtypes, strict=True)
        )

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [N, C] of the only network for ``x`` [N, ...]; TypeError or ValueError for other output."""
        (member,), (dtype,) = self.members, self._dtypes
        logits = member(x if dtype is None else x.to(dtype))
        checks.logits("the output of model", logits)
        if logits.shape[0] != x.shape[0]:
            raise ValueError(f"the output of model must have shape [{x.shape[0]}, C], got {list(logits.shape)}")
        return logits


class KeepMode:
    """A network that attacks leave in the mode it is in, instead of putting it in eval mode.

    In train mode it takes the statistics of the attacked batch, and each step moves BatchNorm's buffers.

    Attributes:
        network: the network itself, of a DistributedDataParallel the one inside.
    """

    def __init__(self, network: Network) -> None:
        self._networks = Networks(network)
        (self.network,) = self._networks.members

    def __call__(self, x: Tensor) -> Tensor:
        return self._networks(x)[0]


def unwrapped(member: Any) -> Any:
    """Return the network that a DistributedDataParallel holds, any other as it is."""
    # At each forward the wrapper synchronises the buffers of all ranks, which then would have to attack in step.
    return member.module if isinstance(member, DistributedDataParallel) else member


def module_behind(member: Any) -> nn.Module | None:
    """Return ``member`` where it is a module, the module that it is a method of, or None."""
    owner = member.__self__ if isinstance(member, MethodType) else member
    return owner if isinstance(owner, nn.Module) else None


def submodules(root: nn.Module) -> Iterator[nn.Module]:
    """Yield ``root.modules()`` in their order, without the names, which take most of that call's time."""
    seen, waiting = {root}, [root]
    while waiting:
        module = waiting.pop()
        yield module
        for child in reversed(module._modules.values()):
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)


def _parameter_dtype(member: Network) -> torch.dtype | None:
    module = module_behind(member)
    if module is None:
        return None
    parameters = (parameter for each in submodules(module) for parameter in each._parameters.values())
    return next((one.dtype for one in parameters if one is not None and one.is_floating_point()), None)
