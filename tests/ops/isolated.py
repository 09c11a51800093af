"""A copy of the installed package, and scripts run against it in a process of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fastadv

PACKAGE = Path(fastadv.__file__).parent


def copy_package(folder: Path) -> Path:
    """``fastadv`` with its libraries and its kernels, copied into ``folder``."""
    return Path(shutil.copytree(PACKAGE, folder / "fastadv", ignore=shutil.ignore_patterns("__pycache__")))


def run_python(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -c script``, where ``folder`` is the first place that modules are looked for."""
    variables = os.environ | {"PYTHONPATH": str(folder)} | environment
    return subprocess.run([sys.executable, "-c", script], cwd=folder, env=variables, capture_output=True, text=True)
