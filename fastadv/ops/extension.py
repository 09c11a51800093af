"""Finds and loads the compiled libraries, and keeps the reason where one cannot be used."""

from __future__ import annotations

import json
import mmap
import warnings
from pathlib import Path

import torch

from fastadv.ops.schemas import SCHEMAS, digest

PACKAGE = Path(__file__).resolve().parent.parent
BUILD_RECORD = PACKAGE / "_build.json"
# Compiled into each library in front of the hash of the schemas it implements.
MARKER = b"fastadv-schemas:"

_LIBRARIES = {"cpu": "_cpu.so", "cuda": "_cuda.so"}
_REBUILD = "rebuild it: pip install --no-build-isolation -e ."


def load() -> dict[str, str | None]:
    """Load what is there and fits: for each of "cpu" and "cuda" None if it serves now, else the reason it does not.

    A library whose compiled-in hash differs from the schemas of this Python code is not loaded: through the stable ABI
    a wrong argument type would be a crash, not an error. One that lacks an op serves none.
    """
    record = json.loads(BUILD_RECORD.read_text()) if BUILD_RECORD.exists() else {}
    reasons = {backend: _load(backend, PACKAGE / file, record.get(backend)) for backend, file in _LIBRARIES.items()}
    if reasons["cpu"] is not None and not record.get("cpu", "").startswith("not asked for"):
        warnings.warn(f"fastadv runs on its reference on the CPU: {reasons['cpu']}", stacklevel=2)
    # A GPU has Triton as well: only a library that was meant to serve is missed.
    if reasons["cuda"] is not None and (PACKAGE / _LIBRARIES["cuda"]).exists() and torch.cuda.is_available():
        warnings.warn(f"fastadv runs without its CUDA library on the GPU: {reasons['cuda']}", stacklevel=2)
    return reasons


def _load(backend: str, path: Path, build_note: str | None) -> str | None:
    if not path.exists():
        return f"{path.name} was not built: {build_note or 'fastadv has not been installed (' + _REBUILD + ')'}"
    if backend == "cuda" and torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    if backend == "cuda" and not torch.cuda.is_available():
        # Loaded all the same, its kernels would be overridden by those that serve then, with a warning for each.
        return "there is no CUDA device"
    if _compiled_digest(path) != digest():
        return f"{path.name} is stale, built for other schemas than this version's; {_REBUILD}"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} cannot be loaded ({error}); {_REBUILD}"
    missing = _without_kernel(backend.upper())
    return f"{path.name} has no {', '.join(missing)}; {_REBUILD}" if missing else None


def _without_kernel(key: str) -> list[str]:
    """The ops that no loaded library computes for dispatch key ``key``."""
    known = set(torch._C._dispatch_get_all_op_names())
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = {op: f"fastadv::{op}" for op in SCHEMAS}
    return [op for op, name in names.items() if name not in known or not has(name, key)]


def _compiled_digest(path: Path) -> str | None:
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = content.find(MARKER)
        return None if found < 0 else content[found + len(MARKER) :][:64].decode("ascii", "replace")
