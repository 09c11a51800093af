"""The backends that are tested, and what it means that one is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

import fastadv

BACKENDS = ("reference", "cpu", "triton")


def require_backend(name: str) -> None:
    """Skip where backend ``name`` cannot exist on this machine; fail where it could and does not."""
    reason = fastadv.backends()[name]
    if reason == "available":
        return
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    possible = {
        "cpu": any(shutil.which(compiler) for compiler in compilers if compiler),
        "triton": importlib.util.find_spec("triton") is not None,
    }
    if possible.get(name):
        pytest.fail(f"backend {name!r} could be here and is not: {reason}")
    pytest.skip(reason)
