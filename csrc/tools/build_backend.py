"""The build backend: setuptools', with the PyTorch of the environment that installs.

pip builds in an environment of its own. Were torch a static requirement of the build, pip would bring a second PyTorch
there, gigabytes of perhaps another version. It is asked for only where the installing environment has none.
"""

from __future__ import annotations

import site
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from setuptools import build_meta

build_sdist = build_meta.build_sdist
build_wheel = build_meta.build_wheel
build_editable = build_meta.build_editable
get_requires_for_build_sdist = build_meta.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable

TORCH = ["torch>=2.10", "numpy"]
Settings = Mapping[str, Any] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_missing()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(config_settings), *_missing()]


def _missing() -> list[str]:
    return [] if find_spec("torch") else TORCH


def _see_installed_torch() -> None:
    """Let the build import the installing environment's PyTorch, after all that the build's own environment has."""
    if find_spec("torch"):
        return
    for folder in (*site.getsitepackages(), site.getusersitepackages()):
        if Path(folder, "torch", "__init__.py").is_file():
            sys.path.append(folder)
            return


_see_installed_torch()
