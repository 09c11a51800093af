"""The build where there is no compiler, and where no extension is wanted: the package installs and says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "fastadv", "kernels", "csrc")
MISSING = "no-such-compiler"

USE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastadv
import torch
from fastadv.ops.dispatch import report, serving
print(fastadv.__file__)
print([str(warning.message) for warning in caught if "fastadv" in str(warning.message)])
print(serving("cpu"))
x = torch.rand(2, 3)
print(torch.equal(fastadv.project(x + 1, x, eps=0.0), x), fastadv.kl_distill(x, x).abs().item() < 1e-6)
print(report())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The sources of the project, with nothing that was built."""
    unbuilt = shutil.ignore_patterns("__pycache__", "*.so", "_build.json")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=unbuilt, symlinks=True)
        else:
            shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments in the project, which comes first among the places it imports from."""
    variables = os.environ | {"PYTHONPATH": str(project)} | environment
    finished = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished


def build(project: Path, **environment: str) -> str:
    """What the build said."""
    finished = run(project, "setup.py", "build_ext", "--inplace", **environment)
    assert not (project / "fastadv" / "_cpu.so").exists()
    return finished.stdout + finished.stderr


def use(project: Path) -> tuple[str, str, str, str]:
    """Warnings at import, the backend in force, whether ops work, and the report."""
    file, *seen, results, report = run(project, "-c", USE).stdout.split("\n", 4)
    assert file == str(project / "fastadv" / "__init__.py")
    warned, serving = seen
    return warned, serving, results, report


def test_without_a_compiler_the_reference_serves(project):
    said = build(project, CXX=MISSING, CC=MISSING)
    assert said.count("no compiled library") == 1
    assert MISSING in said
    warned, serving, results, report = use(project)
    assert warned.count("fastadv runs on its reference") == 1
    assert MISSING in warned
    assert serving == "reference"
    assert results == "True True"
    assert MISSING in report


def test_an_extension_that_is_not_wanted_is_not_missed(project):
    said = build(project, USE_CPP="0")
    assert "USE_CPP=0" in said
    warned, serving, results, report = use(project)
    assert warned == "[]"
    assert serving == "reference"
    assert results == "True True"
    assert "USE_CPP=0" in report


def test_a_failed_build_leaves_no_earlier_library(project):
    library = project / "fastadv" / "_cpu.so"
    library.write_bytes(b"of an earlier build")
    build(project, CXX=MISSING, CC=MISSING)
    assert "was not built" in use(project)[3]


def test_a_fresh_checkout_says_how_to_build(project):
    warned, serving, results, _ = use(project)
    assert "pip install" in warned
    assert serving == "reference"
    assert results == "True True"
