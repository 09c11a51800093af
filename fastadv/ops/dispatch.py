"""Registration of the ops, and the backend that computes each: chosen once at import, or forced by the caller.

Every op of :mod:`fastadv.ops.schemas` is registered as ``fastadv::<op>``, whose dispatch keys the compiled libraries
take (where one is absent, Triton takes CUDA and the reference takes the CPU), and as the overloads
``fastadv::<op>.reference`` and ``fastadv::<op>.triton``, which :func:`use_backend` chooses among.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastadv.ops import extension
from fastadv.ops.schemas import SCHEMAS

BACKENDS = ("reference", "cpu", "cuda", "triton")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)

_library = torch.library.Library("fastadv", "FRAGMENT")
_ops: dict[str, Op] = {}
# The reason why a backend cannot be used at all here, or None.
_unavailable: dict[str, str | None] = {}
_forced: str | None = os.environ.get("FASTADV_BACKEND") or None


class Op:
    """One op, which ``op.on(x)(x, ...)`` computes on the backend in force."""

    __slots__ = ("_default", "_numbers", "_overloads", "name")

    def __init__(self, name: str, overloads: dict[str, Any]) -> None:
        self.name = name
        self._overloads = overloads
        self._default = overloads["cpu"]
        optional = [argument for argument in overloads["cpu"]._schema.arguments if argument.has_default_value()]
        self._numbers = tuple(a.default_value for a in optional if str(a.type) != "Optional[Tensor]")

    def on(self, x: Tensor) -> Any:
        """Return the registered overload that computes on ``x``; raise with the reason where it cannot be had."""
        if _forced is None:
            return self._default
        if _forced not in BACKENDS:
            raise ValueError(f"FASTADV_BACKEND must be one of {', '.join(BACKENDS)}, got {_forced!r}")
        reason = unavailable(_forced) or _wrong_device(_forced, x.device.type)
        if reason:
            raise RuntimeError(f"fastadv.{self.name}: backend {_forced!r} was asked for, but {reason}")
        return self._overloads[_forced]

    def tail(self, numbers: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Any, ...]:
        """Return the optional arguments that a call must pass, of ``numbers`` and then ``tensors``.

        PyTorch fills in what is left out for nothing, and takes 0.1 to 0.2 us for each argument that is passed.
        """
        for x in tensors:
            if x is not None:
                return *numbers, *tensors
        return () if numbers == self._numbers else numbers


def define(
    name: str,
    *,
    family: str,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    check: Callable[..., None] | None = None,
) -> Op:
    """Register ``name`` with its shape function and its Python implementations.

    ``reference`` and ``fake`` take all arguments of the schema; so does the Triton launcher, the function of the same
    name in ``fastadv.kernels.<family>``, which is imported on its first call. ``check`` takes them too and raises for
    indices on the CPU that point nowhere, before either computes; the compiled op looks at them itself.
    """
    names = (name, f"{name}.reference", f"{name}.triton")
    for overload in names:
        _library.define(overload + SCHEMAS[name], tags=_TAGS)
    packet = getattr(torch.ops.fastadv, name)
    defaults = [argument.default_value for argument in packet.default._schema.arguments]

    # PyTorch hands a Python function no argument from the schema's end that has its default.
    def filled(args: tuple[Any, ...]) -> tuple[Any, ...]:
        return *args, *defaults[len(args) :]

    def shapes(*args: Any) -> Any:
        return fake(*filled(args))

    # Autograd is passed by, so what PyTorch ops the reference is made of would record a graph of their own.
    @torch.no_grad()
    def plain(*args: Any) -> Any:
        args = filled(args)
        if check is not None:
            check(*args)
        return reference(*args)

    def triton(*args: Any) -> Any:
        args = filled(args)
        if check is not None:
            check(*args)
        return getattr(importlib.import_module(f"fastadv.kernels.{family}"), name)(*args)

    for overload in names:
        _library._register_fake(overload, shapes)
        # No graph is recorded here: the losses' autograd.Function does that, the steps have no gradient.
        _library.impl(overload, torch.library.fallthrough_kernel, "Autograd")
    _library.impl(f"{name}.reference", plain, "CompositeExplicitAutograd")
    _library.impl(f"{name}.triton", triton, "CompositeExplicitAutograd")
    if unavailable("cpu"):
        _library.impl(name, plain, "CPU")
    if unavailable("cuda"):
        _library.impl(name, plain if unavailable("triton") else triton, "CUDA")
    overloads = {"reference": packet.reference, "cpu": packet.default, "cuda": packet.default, "triton": packet.triton}
    _ops[name] = Op(name, overloads)
    return _ops[name]


def unavailable(backend: str) -> str | None:
    """Return the reason why ``backend`` cannot be used here, or None where it can."""
    return _unavailable[backend]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every op of fastadv on backend ``name`` inside the ``with`` block, in all threads.

    ``name`` is "reference", "cpu", "cuda" or "triton". The environment variable ``FASTADV_BACKEND`` does the same for a
    whole process. A backward pass runs on the backend of its forward pass, wherever it is started.

    Raises ValueError for a name that is no backend and RuntimeError, with the reason, for one that cannot be used here.
    """
    global _forced
    if name not in BACKENDS:
        raise ValueError(f"use_backend: name must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    if reason := unavailable(name):
        raise RuntimeError(f"use_backend: backend {name!r} is not available: {reason}")
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


def forced() -> str | None:
    """Return the backend that was asked for, by :func:`use_backend` or the environment; None where it is chosen."""
    return _forced


def backends() -> dict[str, str]:
    """Return for each backend "available", or the reason why it is not."""
    return {name: unavailable(name) or "available" for name in BACKENDS}


def report() -> str:
    """Return the text of ``fastadv doctor``: what serves each op on each device here, and why other backends do not."""
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads"]
    lines += [f"{name:10} {state}" for name, state in backends().items()]
    if _forced:
        lines.append(f"forced: {_forced}" + ("" if _usable(_forced) else ", which cannot be used here"))
    lines += ["", f"{'op':26}{'cpu tensors':14}cuda tensors"]
    lines += [f"{name:26}{serving('cpu'):14}{serving('cuda')}" for name in sorted(_ops)]
    return "\n".join(lines)


def serving(device_type: str) -> str:
    """Return the backend that computes on tensors of ``device_type``, or "-" where none can."""
    if device_type == "cuda" and not torch.cuda.is_available():
        return "-"
    if _forced:
        return _forced if _usable(_forced) else "-"
    if not unavailable(device_type):
        return device_type
    return "triton" if device_type == "cuda" and not unavailable("triton") else "reference"


def _usable(backend: str) -> bool:
    return backend in BACKENDS and unavailable(backend) is None


def _wrong_device(backend: str, device_type: str) -> str | None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    expected = {"cpu": "cpu", "cuda": "cuda", "triton": "cpu" if interpreted else "cuda"}.get(backend, device_type)
    return None if device_type == expected else f"the tensors are on {device_type}, not on {expected}"


def _triton_unavailable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'fastadv[triton]')"
    if os.environ.get("TRITON_INTERPRET") != "1" and not torch.cuda.is_available():
        return "there is no CUDA or ROCm device (TRITON_INTERPRET=1, set before the first import, runs it on the CPU)"
    return None


def _load_backends() -> None:
    _unavailable.update(extension.load(), reference=None, triton=_triton_unavailable())


_load_backends()


def like(x: Tensor, result: Tensor) -> Tensor:
    """Return ``result`` in the dtype and memory layout of ``x``."""
    return result.to(x.dtype) if result.stride() == x.stride() else torch.empty_like(x).copy_(result)
