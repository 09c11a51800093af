"""The packages of fastadv.train, as its docstring has them: imports run one way, and no name stands for two things."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fastadv.train

ROOT = Path(fastadv.train.__path__[0])
LAYERS = [["runtime"], ["data", "networks"], ["config"], ["loop"], ["report"], ["robustness"], ["cli"]]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
MODULES = [path for path in ROOT.rglob("*.py") if path.name != "__init__.py"]


def imports(path):
    """The modules of fastadv.train that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fastadv.train."):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("fastadv.train."))


def package(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_upward(path):
    for module in imports(path):
        there = module.split(".")[2]
        assert there == package(path) or LAYER_OF[there] < LAYER_OF[package(path)], f"{path} imports {module}"


def test_there_is_no_circle():
    modules = {"fastadv.train." + ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    left = {name: {module for module in imports(path) if module in modules} for name, path in modules.items()}
    while ground := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ground:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


def test_the_entries_and_names():
    entries = [path.name for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 10
    assert set(entries) == {"__init__.py", "recipes", "cli.py", *(LAYER_OF.keys() - {"cli"})}
    twice = [name for name, count in Counter(path.name for path in MODULES).items() if count > 1]
    assert not twice


ANSWERS = [
    (["--help"], 0, "COMMAND"),
    (["train", "--help"], 0, "--option"),
    (["attack", "--help"], 0, "--restarts"),
    (["--version"], 0, fastadv.__version__),
    (["train", "--batch-size=many"], 2, "batch_size: 'many' (str), expected int"),
    (["train", "--student=resnet21"], 2, "student: 'resnet21', did you mean resnet"),
    (["train", "--methods=taldd"], 2, "methods: 'taldd', did you mean tald?"),
    (["train", "--recipe=tald-cifar10"], 2, "recipe: 'tald-cifar10' not found, did you mean tald-cifar100?"),
    (["attack", "--attack=apdg"], 2, "attack: 'apdg', did you mean apgd?"),
]
# Answers command lines given as JSON one after the other, and says after each whether torch is imported by now.
PROGRAM = """
import contextlib, io, json, sys
from fastadv.train.cli import main
answers = []
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code
    answers.append((status, said.getvalue(), "torch" in sys.modules))
print(json.dumps(answers))
"""


def test_help_and_typos_are_answered_without_torch():
    given = json.dumps([arguments for arguments, _, _ in ANSWERS])
    found = subprocess.run([sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for (arguments, status, text), (answered, said, imported) in zip(ANSWERS, json.loads(found.stdout), strict=True):
        assert answered == status, (arguments, said)
        assert text in said, arguments
        assert not imported, f"{arguments}: torch was imported"
