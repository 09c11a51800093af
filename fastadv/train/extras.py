"""Imports of the optional dependencies, where they are used."""

import importlib
from types import ModuleType

from fastadv.train.errors import MissingExtraError


def require(module: str, purpose: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError saying what needs it and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingExtraError(f"{purpose} needs {package} ({error}): pip install 'fastadv[train]'") from error
