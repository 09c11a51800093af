"""Scripts in processes of their own: Triton interprets or compiles as settled when it is imported."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run a script of this folder in a new process; the JSON lines it printed."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")

    def run(name: str, *arguments: str, interpret: bool) -> list[dict[str, Any]]:
        environment = os.environ | {
            "TRITON_INTERPRET": "1" if interpret else "0",
            "TRITON_CACHE_DIR": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))).strip(os.pathsep),
        }
        environment.pop("FASTADV_BACKEND", None)
        script = Path(__file__).with_name(name)
        result = subprocess.run(
            [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run
