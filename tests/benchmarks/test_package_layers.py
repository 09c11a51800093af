"""Imports between the packages of the benchmarks run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# What each package may import beside itself. __main__ stands on top of all.
BELOW = {
    "suite": set(),
    "opponents": {"suite"},
    "cases": {"suite", "opponents"},
    "pages": {"suite"},
    "studies": {"suite", "opponents", "cases", "pages"},
}


def imported(path: Path) -> set[str]:
    """The packages that a module imports from, ``from benchmarks import page`` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "benchmarks":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("benchmarks."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("benchmarks.")}
    return found


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_is_below_it(package):
    modules = sorted((BENCHMARKS / package).glob("*.py"))
    assert modules
    above = {path.name: imported(path) - BELOW[package] - {package} for path in modules}
    assert not {name: packages for name, packages in above.items() if packages}


def test_every_room_is_one_of_these():
    packages = {path.name for path in BENCHMARKS.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))}
    assert packages == {*BELOW, "results"}
