"""Losses that reach one network through another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def frozen_parameters(networks: Iterable[Any]) -> Iterator[None]:
    """Keep gradients of what is computed inside from the networks' parameters; they reach the networks' inputs.

    Afterwards each parameter requires grad as before. Callables that are no modules are left alone.
    """
    modules = [network for network in networks if isinstance(network, nn.Module)]
    held = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
