"""Imports by name, where they are used: of optional dependencies, and of MODULE:FUNCTION of a user's own."""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fastadv.train.runtime.errors import ConfigError, MissingExtraError, TrainError, in_a_line


def require(module: str, purpose: str, *, install: str = "'fastadv[train]'") -> ModuleType:
    """Import `module`, or raise MissingExtraError saying what needs it and what to `pip install`."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        package = module.partition(".")[0]
        raise MissingExtraError(f"{purpose} needs {package} ({error}): pip install {install}") from error


def is_own(name: str) -> bool:
    """Return whether ``name`` is MODULE:FUNCTION."""
    return ":" in name


def find_own(field: str, name: str) -> Callable[..., Any]:
    """Return the function MODULE:FUNCTION; the module is looked for in the current folder first.

    field: what errors call the name. Raises ConfigError where there is none, or its module cannot be imported.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # its module may raise anything
        raise ConfigError(f"{field}: {name!r} cannot be imported in {here} ({in_a_line(error)})") from error
    if not callable(function):
        raise ConfigError(f"{field}: {name!r} is a {type(function).__name__}, expected a function")
    return function


def call_own(field: str, name: str, **offered: object) -> Any:
    """Call MODULE:FUNCTION with those of ``offered`` that it takes. Raises ConfigError where it raises."""
    function = find_own(field, name)
    try:
        parameters = inspect.signature(function).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return function(**{key: value for key, value in offered.items() if takes_all or key in parameters})
    except TrainError:
        raise
    except Exception as error:
        raise ConfigError(f"{field}: {name!r} raised {in_a_line(error)}") from error
