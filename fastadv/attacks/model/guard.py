"""Contexts in which an attack leaves no trace on the caller's networks and modes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastadv.attacks.model.found_modules import modules_in, submodules

# For each flag of a module that is off for attacks: how many of them, and what it is to go back to after the last.
_uses: dict[tuple[nn.Module, str], list[Any]] = {}
# With these a wrapper synchronises the buffers of all ranks at each forward, which would have to attack in step, and
# waits for gradients of parameters.
_OF_RANKS = ("require_forward_param_sync", "require_backward_grad_sync")
_lock = threading.Lock()


@contextlib.contextmanager
def evaluating(models: Iterable[Any]) -> Iterator[None]:
    """Put every module in eval mode inside; afterwards each submodule has its own flag again.

    In eval mode neither the buffers of BatchNorm nor the global random state of Dropout change. A
    DistributedDataParallel among the modules does not talk to other ranks. Threads may be inside with the same modules:
    these go back to their mode with the last of them. Which modules a callable has is told by
    :func:`fastadv.attacks.model.found_modules.modules_in`.
    """
    modules = [module for model in models for root in modules_in(model) for module in submodules(root)]
    if torch.compiler.is_compiling():
        with _evaluating_in_a_graph(modules):
            yield
        return
    flags = [(module, "training") for module in modules]
    flags += [(each, name) for each in modules if isinstance(each, DistributedDataParallel) for name in _OF_RANKS]
    with _lock:
        used = [flag for flag in flags if getattr(*flag) or flag in _uses]
        # All are read before one is written: that of a module that torch.compile made is its inner module's too.
        for flag in used:
            _uses.setdefault(flag, [0, getattr(*flag)])[0] += 1
        for module, name in used:
            setattr(module, name, False)
    try:
        yield
    finally:
        with _lock:
            for flag in used:
                use = _uses[flag]
                use[0] -= 1
                if not use[0]:
                    setattr(*flag, use[1])
                    del _uses[flag]


@contextlib.contextmanager
def _evaluating_in_a_graph(modules: list[nn.Module]) -> Iterator[None]:
    """Do the same without locks and counts, which the compiler cannot trace."""
    flags = [(module, module.training) for module in modules]
    try:
        for module, training in flags:
            if training:
                module.training = False
        yield
    finally:
        for module, training in flags:
            if module.training != training:
                module.training = training


@contextlib.contextmanager
def no_trace(models: Iterable[Any]) -> Iterator[None]:
    """Enter :func:`evaluating` and record gradients, whatever the caller's grad mode; autocast stays as it is."""
    try:
        with evaluating(models), _normal_mode(), torch.enable_grad():
            yield
    finally:
        # Older versions of torch cache a weight that autocast casts under no_grad without its graph: a caller who goes
        # on to train inside the same autocast region would get no gradient for it.
        if not torch.compiler.is_compiling():
            torch.clear_autocast_cache()


def _normal_mode() -> contextlib.AbstractContextManager[Any]:
    # The compiler cannot trace the question: a compiled attack belongs outside of inference mode.
    inside = not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()
    return torch.inference_mode(False) if inside else contextlib.nullcontext()
