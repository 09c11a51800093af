"""The modules that a callable may run, looked for in what its code refers to: modules_in."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastadv.attacks.model.wrappers import Logits, Normalized

# How many callables, one inside another, are looked into for modules, and so many objects in each of their variables.
_DEPTH = 3
# A collection of more is one of data: to look through it would take longer than an attack.
_ENTRIES = 100
_WITHOUT_COLLECTIONS = ("torch", "fastadv")
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_CALLABLES = frozenset((functools.partial, FunctionType, MethodType))


class LeftAlone:
    """A callable in which no module is looked for."""


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

    Those are a module itself or the one it is a method of, and the modules that the callables behind it refer to: the
    arguments of a partial, the variables of a function, the attributes of an object, and what its code names of the
    objects, lists and dicts among them; and of all these, what lists, tuples and dicts of them and their submodules
    hold. Where there is none, a warning says so. Under torch.compile, which cannot follow this, only the first kind is
    found.
    """
    module = module_behind(member)
    if torch.compiler.is_compiling():
        return () if module is None else (module,)
    if isinstance(member, LeftAlone):
        return ()
    found = _held(member)
    if not found:
        warnings.warn(
            "model is a callable in which no torch.nn.Module was found: modules that it runs stay in the mode they are "
            "in, and in train mode an attack moves their BatchNorm; pass the module itself, or call eval() on it",
            stacklevel=1,
        )
    return found


def _wrappers(module: nn.Module) -> Iterator[nn.Module]:
    """Yield ``module`` and the wrappers of any callable inside of it, which hold theirs as no submodule."""
    yield module
    for child in module._modules.values():
        if isinstance(child, (Normalized, Logits)):
            yield from _wrappers(child)


def modules_in_collections(root: nn.Module) -> dict[str, str]:
    """Return the attributes of ``root`` and its submodules that hold modules without making them submodules.

    By name, with the kind of collection each is.
    """
    return {
        name: type(values).__name__
        for name, values in _collections(root)
        if any(isinstance(each, nn.Module) for each in _reached(values, (), _DEPTH))
    }


def _collections(root: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the lists, tuples and dicts that ``root`` and its submodules have as attributes, with their names."""
    for module in submodules(root):
        # Modules of torch and of this package hold modules so where they do not run them.
        if type(module).__module__.partition(".")[0] not in _WITHOUT_COLLECTIONS:
            for name, value in vars(module).items():
                if isinstance(value, (list, tuple, dict)) and name not in _OF_EVERY_MODULE:
                    yield name, value


def _inside(module: nn.Module) -> Iterator[Any]:
    """Yield what ``module`` may run that torch does not know of: callables in wrappers, what its collections hold."""
    for each in _wrappers(module):
        yield from (value for value in vars(each).values() if callable(value) and _is_plain_callable(value))
    for _, values in _collections(module):
        yield from _reached(values, (), _DEPTH)


def _held(member: Any) -> tuple[nn.Module, ...]:
    """Return the modules that ``member`` is or, where it can be called, refers to by way of ``_DEPTH`` callables."""
    found: dict[nn.Module, None] = {}
    seen: dict[Any, Any] = {}  # with the values themselves, so that no other gets the identity of one
    level = [member]
    for depth in range(_DEPTH + 1):
        inner: list[Any] = []
        while level:
            value = level.pop()
            module = module_behind(value)
            # Of a method each access makes a new object.
            identity = (id(value.__self__), id(value.__func__)) if isinstance(value, MethodType) else id(value)
            if module is not None:
                if module not in found:
                    found[module] = None
                    level += _inside(module)
            elif depth < _DEPTH and identity not in seen and not isinstance(value, type):
                seen[identity] = value
                inner += _references(value)
        level = inner
    return tuple(found)


def _references(value: Any) -> list[Any]:
    """Return the modules and callables that the code of a callable may reach from the variables it has."""
    function = _code_of(value)
    names = _names(function.__code__) if isinstance(function, FunctionType) else ()
    if isinstance(value, functools.partial):
        variables = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, MethodType):
        variables = [value.__func__, value.__self__, *_attributes(value.__self__)]
    elif isinstance(value, FunctionType):
        variables = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        variables += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        space = value.__globals__
        if not _is_of_torch(space.get("__name__")):
            variables += [space[name] for name in names if name in space]
    else:
        variables = [type(value).__call__, value, *_attributes(value)]
    return [held for variable in variables for held in _reached(variable, names, _DEPTH)]


def _reached(value: Any, names: tuple[str, ...], hops: int) -> Iterator[Any]:
    """Yield the modules and callables that code with such ``names`` of attributes reaches from a variable's value.

    It reaches the entries of a collection and the attributes of an object, over ``hops`` of them, one inside another.
    """
    if isinstance(value, nn.Module) or type(value) in _CALLABLES:
        yield value
    elif isinstance(value, (list, tuple, dict)):
        if hops and len(value) <= _ENTRIES:
            for entry in value.values() if isinstance(value, dict) else value:
                yield from _reached(entry, names, hops - 1)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, LeftAlone)) and not _is_of_torch(_home(value)):
        if _is_plain_callable(value):
            yield value
        for name in names if hops else ():
            yield from _reached(_attribute(value, name), names, hops - 1)


def _attribute(owner: Any, name: str) -> Any:
    """Return an attribute of ``owner``, a property as the method it is, without running any code; None without one."""
    own = vars(owner)
    if name in own:
        return own[name]
    found = next((cls.__dict__[name] for cls in type(owner).__mro__ if name in cls.__dict__), None)
    found = found.fget if isinstance(found, property) else found
    return MethodType(found, owner) if isinstance(found, FunctionType) else found


def _attributes(owner: Any) -> list[Any]:
    return list(getattr(owner, "__dict__", {}).values())


def _code_of(value: Any) -> Any:
    """Return the function whose code runs where a callable is called."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, MethodType):
        return value.__func__
    return value if isinstance(value, FunctionType) else type(value).__call__


def _names(code: CodeType) -> tuple[str, ...]:
    """Return the names of globals and attributes in ``code`` and in the functions inside of it."""
    inner = (name for each in code.co_consts if isinstance(each, CodeType) for name in _names(each))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _is_plain_callable(value: Any) -> bool:
    """Return whether ``value`` can be called, and is neither a module nor a class nor an object of torch."""
    if not callable(value) or isinstance(value, (nn.Module, type)):
        return False
    return type(value) in _CALLABLES or not _is_of_torch(type(value).__module__)


def _home(value: Any) -> Any:
    """Return the name of the Python module that ``value`` is, or that its class is of."""
    return value.__name__ if isinstance(value, ModuleType) else type(value).__module__


def _is_of_torch(name: Any) -> bool:
    # Its code is not of the caller's model, and there is much of it.
    return isinstance(name, str) and name.partition(".")[0] == "torch"


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
