"""The backends that are tested, where they compute, and what it means that one is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch

import fastadv
from tests.ops.carrying import carrying

EVERY_BACKEND = ("reference", "cpu", "triton", "cuda")


def could_be_here(name: str) -> bool:
    """Tell whether backend ``name`` is on this machine, or would be if its build had not failed."""
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    possible = {
        "cpu": any(shutil.which(compiler) for compiler in compilers if compiler),
        "cuda": torch.cuda.is_available() and torch.version.cuda is not None and shutil.which("nvcc") is not None,
        "triton": importlib.util.find_spec("triton") is not None,
    }
    return fastadv.backends()[name] == "available" or possible.get(name, False)


# Tests are made for these alone; test_registration.py skips once for each of the others, and says why.
BACKENDS = tuple(name for name in EVERY_BACKEND if could_be_here(name))


def require_backend(name: str) -> None:
    """Skip where backend ``name`` cannot exist on this machine; fail where it could and does not."""
    reason = fastadv.backends()[name]
    if reason == "available":
        return
    if could_be_here(name):
        pytest.fail(f"backend {name!r} could be here and is not: {reason}")
    pytest.skip(reason)


def device_of(name: str) -> str:
    """Return the device on which backend ``name`` computes: Triton on the CPU only where it is interpreted."""
    compiled = name == "triton" and os.environ.get("TRITON_INTERPRET") != "1"
    return "cuda" if name == "cuda" or compiled else "cpu"


def require_on_cpu(name: str) -> None:
    """Skip where backend ``name`` does not compute on tensors of the CPU; else :func:`require_backend`."""
    require_backend(name)
    if device_of(name) != "cpu":
        pytest.skip(f"backend {name!r} computes on the GPU here")


@contextmanager
def computing_on(name: str) -> Iterator[None]:
    """Every op computes on backend ``name``, which must be here; a GPU's gets copies of tensors of the CPU."""
    require_backend(name)
    with ExitStack() as stack:
        if device_of(name) != "cpu":
            stack.enter_context(carrying(name, device_of(name)))
        stack.enter_context(fastadv.use_backend(name))
        yield
