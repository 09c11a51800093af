"""Contexts in which an attack leaves no trace on the caller's networks and modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from fastadv.attacks.model.networks import module_behind, submodules


@contextlib.contextmanager
def evaluating(models: Iterable[Any]) -> Iterator[None]:
    """Put every module in eval mode inside; afterwards each submodule has its own flag again.

    In eval mode neither the buffers of BatchNorm nor the global random state of Dropout change. Callables that are no
    modules or methods of one are left alone.
    """
    roots = [module_behind(model) for model in models]
    flags = [(module, module.training) for root in roots if root is not None for module in submodules(root)]
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
