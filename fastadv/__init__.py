"""Fused kernels for adversarial sampling and adversarial distillation in PyTorch.

``import fastadv`` alone imports nothing: PyTorch and all ops come with the first function used, a subpackage with its
first name. Where PyTorch is imported already, the ops come at once. Code that has only their names in PyTorch, such as
``torch.ops.fastadv.pgd_step`` or ``torch.export.load`` of a program that calls it, begins with ``import fastadv.ops``,
which registers them in any case.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastadv import (
        attacks as attacks,
        distill as distill,
        integrations as integrations,
        nn as nn,
        ops as ops,
        train as train,
    )

if TYPE_CHECKING or "torch" in sys.modules:
    from fastadv.ops.public import *  # noqa: F403
    from fastadv.ops.public import __all__ as __all__

__version__ = "0.1.0"

_SUBPACKAGES = ("attacks", "distill", "integrations", "nn", "ops", "train")


def __getattr__(name: str) -> Any:
    """Import the subpackage of that name, or all ops and return the public function of that name, or ``__all__``."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"fastadv.{name}")
    if name == "__all__" or not name.startswith("_"):
        public = importlib.import_module("fastadv.ops.public")
        if name == "__all__" or name in public.__all__:
            return globals().setdefault(name, getattr(public, name))
    raise AttributeError(f"module 'fastadv' has no attribute {name!r}")


def __dir__() -> list[str]:
    special = (name for name in globals() if name.startswith("__"))
    return sorted({*special, *__getattr__("__all__"), *_SUBPACKAGES})
