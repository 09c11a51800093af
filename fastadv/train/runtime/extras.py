"""Imports of the optional dependencies, where they are used."""

import importlib
from types import ModuleType

from fastadv.train.runtime.errors import MissingExtraError


def require(module: str, purpose: str, *, install: str = "'fastadv[train]'") -> ModuleType:
    """Import `module`, or raise MissingExtraError saying what needs it and what to `pip install`."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        package = module.partition(".")[0]
        raise MissingExtraError(f"{purpose} needs {package} ({error}): pip install {install}") from error
