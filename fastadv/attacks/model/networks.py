"""The networks under attack, as one function from images to logits."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastadv.attacks.model import values
from fastadv.ops import checks

Network = Callable[[Tensor], Tensor]

# How many callables, one inside another, are looked into for modules.
_DEPTH = 3
_CALLABLES = frozenset((functools.partial, FunctionType, MethodType))


class Networks:
    """One network or several attacked together; calling it gives the tuple of their outputs.

    The first outputs are checked for NaN and infinity, see :mod:`fastadv.attacks.model.values`.

    Args:
        model: a callable or a sequence of them.
        check: look at values on every device (True), on none (False), or on a CPU (None).

    Raises TypeError for what cannot be called, ValueError for an empty sequence.
    """

    def __init__(self, model: Network | Sequence[Network], check: bool | None = None) -> None:
        self.together = isinstance(model, (list, tuple, nn.ModuleList))
        members: Any = model if self.together else (model,)
        self.members = tuple(unwrapped(member) for member in members)
        if not self.members:
            raise ValueError("model must hold at least one network, got an empty sequence")
        for member in self.members:
            if not callable(member):
                raise TypeError(f"model must be a callable or a sequence of them, got {type(member).__name__}")
        self._dtypes = [_parameter_dtype(member) for member in self.members]
        self._check = check
        self._is_checked = False

    def __call__(self, x: Tensor, copies: int = 1) -> tuple[Any, ...]:
        """Return what the networks give for ``x`` [N * copies, ...], of whatever type."""
        outputs = tuple(
            member(x if dtype is None else x.to(dtype))
            for member, dtype in zip(self.members, self._dtypes, strict=True)
        )
        self._check_first(outputs, copies)
        return outputs

    def logits(self, x: Tensor, copies: int = 1) -> Tensor:
        """Return the logits [N * copies, C] of the only network for ``x`` [N * copies, ...].

        One logit z stands for the two classes of a sigmoid: it becomes [0, z]. Raises TypeError or ValueError where the
        output is no such logits.
        """
        (member,), (dtype,) = self.members, self._dtypes
        logits = check_logits("model", member(x if dtype is None else x.to(dtype)), x)
        self._check_first((logits,), copies)
        return logits if logits.shape[1] > 1 else two_classes(logits)

    def check_finite(self, name: str, value: Tensor) -> None:
        """Raise NotFiniteError where ``value`` [N, ...] of the argument ``name`` is NaN or infinite, if looked at."""
        if values.readable(value, self._check):
            values.check_finite(name, value)

    def _check_first(self, outputs: tuple[Any, ...], copies: int) -> None:
        if self._is_checked:
            return
        self._is_checked = True
        for member, output in zip(self.members, outputs, strict=True):
            if isinstance(output, Tensor) and values.readable(output, self._check):
                values.check_output(output, functools.partial(modules_in, member), copies)


class KeepMode:
    """A network that attacks leave in the mode it is in, instead of putting it in eval mode.

    In train mode it takes the statistics of the attacked batch, and each step moves BatchNorm's buffers.

    Attributes:
        network: the network itself, of a DistributedDataParallel the one inside.
    """

    def __init__(self, network: Network) -> None:
        self._networks = Networks(network, check=False)
        (self.network,) = self._networks.members

    def __call__(self, x: Tensor) -> Tensor:
        return self._networks(x)[0]


def check_logits(name: str, output: Any, x: Tensor) -> Tensor:
    """Return ``output`` of the network ``name`` for ``x`` [N, ...]; TypeError or ValueError unless it is logits [N, C].

    They are floating-point, with at least one class.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{name} must give logits [N, C], got {type(output).__name__}; wrap it with lambda x: {name}(x).logits, or "
            f"lambda x: {name}(x)[0] for a tuple, or fastadv.attacks.Logits({name}, key)"
        )
    if output.dtype not in checks.FLOATING:
        raise TypeError(f"{name} must give floating-point logits [N, C], got {output.dtype}")
    if output.dim() != 2 or output.shape[0] != x.shape[0] or not output.shape[1]:
        raise ValueError(f"{name} must give logits [{x.shape[0]}, C], got {list(output.shape)}")
    return output


def two_classes(logits: Tensor) -> Tensor:
    """Return the logits [0, z] of the two classes that one logit z, [N, 1], stands for."""
    return torch.cat((torch.zeros_like(logits), logits), 1)


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


def modules_in(member: Any) -> tuple[nn.Module, ...]:
    """Return the modules that calling ``member`` may run, without their submodules.

    Those are a module itself or the one it is a method of, and the modules among the arguments of a partial, the
    variables of a function and the attributes of an object, and among those of the callables found there. Where there
    is none, a warning says so. Under torch.compile, which cannot follow this, only the first kind is found.
    """
    module = module_behind(member)
    if torch.compiler.is_compiling():
        return () if module is None else (module,)
    if module is not None:
        wrapped = [value for value in vars(module).values() if type(value) in _CALLABLES]
        return tuple(dict.fromkeys((module, *(held for value in wrapped for held in _held(value, _DEPTH)))))
    if isinstance(member, KeepMode):
        return ()
    found = tuple(dict.fromkeys(_held(member, _DEPTH)))
    if not found:
        warnings.warn(
            "model is a callable in which no torch.nn.Module was found: modules that it runs stay in the mode they are "
            "in, and in train mode an attack moves their BatchNorm; pass the module itself, or call eval() on it",
            stacklevel=1,
        )
    return found


def _held(value: Any, depth: int) -> Iterator[nn.Module]:
    """Yield the modules that ``value`` is or, where it can be called, refers to by way of ``depth`` callables."""
    module = module_behind(unwrapped(value))
    if module is not None:
        yield module
    elif depth and callable(value) and not isinstance(value, type):
        for held in _references(value):
            # What else an object or a function holds, be it code of torch, is not of the caller's model.
            if type(held) in _CALLABLES or isinstance(held, nn.Module):
                yield from _held(held, depth - 1)


def _references(value: Any) -> list[Any]:
    """Return the values that a callable holds: arguments, attributes, variables of closures and of its module."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, *_attributes(value.__self__)]
    if not isinstance(value, FunctionType):
        return [*_attributes(value), type(value).__call__]
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
    named = [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
    return [*cells, *named, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]


def _attributes(owner: Any) -> list[Any]:
    return list(getattr(owner, "__dict__", {}).values())


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _parameter_dtype(member: Network) -> torch.dtype | None:
    module = module_behind(member)
    if module is None:
        return None
    parameters = (parameter for each in submodules(module) for parameter in each._parameters.values())
    return next((one.dtype for one in parameters if one is not None and one.is_floating_point()), None)
