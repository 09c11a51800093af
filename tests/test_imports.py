"""Which package of the package may import which, and that ``import fastadv`` is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastadv

PACKAGE = Path(fastadv.__file__).parent
# Each package imports itself, numerics, near_misses and those named: one way, and to the oracle from the ops alone.
MAY_IMPORT = {
    "numerics": set(),
    "near_misses": set(),
    "reference": set(),
    "kernels": set(),
    "ops": {"kernels", "reference"},
    "nn": {"ops"},
    "attacks": {"ops"},
    "integrations": {"attacks", "ops"},
    "distill": {"attacks", "nn", "ops"},
    "train": {"distill", "attacks", "nn", "ops"},
}


def imported_packages(file: Path) -> set[str]:
    """The packages of fastadv that ``file`` imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("fastadv.")} - {"__version__"}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    file = PACKAGE / f"{package}.py"
    files = [file] if file.exists() else sorted((PACKAGE / package).rglob("*.py"))
    assert files
    allowed = MAY_IMPORT[package] | {package} | (set() if package == "reference" else {"numerics", "near_misses"})
    wrong = {str(file.relative_to(PACKAGE)): imported_packages(file) - allowed for file in files}
    assert not {file: packages for file, packages in wrong.items() if packages}


def test_every_package_is_known():
    packages = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert packages - {"__init__", "__main__"} == set(MAY_IMPORT)


def run(script: str) -> list[str]:
    finished = subprocess.run([sys.executable, "-c", script], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


LAZY = """
import sys, fastadv
fastadv.__version__, hasattr(fastadv, "__path_hooks__")
print("torch" in sys.modules)
print(fastadv.attacks.pgd.__name__)
print(sorted(name for name in ("distill", "integrations", "train") if f"fastadv.{name}" in sys.modules))
import torch
print(torch.ops.fastadv.pgd_step.default._schema.name)
"""


def test_what_is_not_used_is_not_imported():
    assert run(LAZY) == ["False", "pgd", "[]", "fastadv::pgd_step"]


@pytest.mark.parametrize("imports", ["import torch, fastadv", "import fastadv.ops, torch"])
def test_the_ops_are_registered_on_import(imports):
    assert run(f"{imports}\nprint(torch.ops.fastadv.pgd_step.default._schema.name)") == ["fastadv::pgd_step"]


WITHOUT_DYNAMO = """
import sys, torch, fastadv, fastadv.distill
model, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), torch.rand(2, 1, 2, 2)
fastadv.kl_distill(model(fastadv.attacks.pgd(model, x, eps=0.1)), model(x)).backward()
print("torch._dynamo" in sys.modules)
"""


def test_dynamo_is_imported_where_it_compiles_alone():
    """It takes as long as torch itself."""
    assert run(WITHOUT_DYNAMO) == ["False"]


NAMES = """
import fastadv
print({*fastadv.__all__, "attacks", "distill", "integrations", "nn", "ops", "train"} - {*dir(fastadv)})
print([name for name in fastadv.__all__ if not callable(getattr(fastadv, name))])
from fastadv import *
print(kl_distill is fastadv.kl_distill)
try:
    fastadv.pgdstep
except AttributeError as error:
    print(error)
"""


def test_the_public_names_are_there():
    assert run(NAMES) == ["set()", "[]", "True", "module 'fastadv' has no attribute 'pgdstep'"]
