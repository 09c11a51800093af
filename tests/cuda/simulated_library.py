"""Compiles csrc/cuda for the block simulator: a library of ops ``fastadv_simulated::<op>`` that take CPU tensors.

Objects are kept in build/simulated under a name with the hash of all that goes into them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KERNELS = ROOT / "csrc" / "cuda"
OBJECTS = ROOT / "build" / "simulated"


def host_compiler() -> str | None:
    """Return a C++ compiler, if there is one."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def build(compiler: str, folder: Path) -> Path:
    """Return the library, made in ``folder``; CalledProcessError where a source does not compile."""
    options = [
        *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *("-DFASTADV_SIMULATOR", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        f"-I{HERE}",
        *(word for path in cpp_extension.include_paths() for word in ("-isystem", path)),
    ]
    # Outputs come from an allocator that guards them.
    guarded = "-Daoti_torch_empty_strided=simulator_empty_strided"
    sources = [(path, [guarded]) for path in sorted(KERNELS.glob("*.cu"), key=lambda path: -path.stat().st_size)]
    sources += [(HERE / name, []) for name in ("guarded_outputs.cpp", "simulator.cpp", "faulty_kernels.cu")]
    OBJECTS.mkdir(parents=True, exist_ok=True)

    def compiled(source: tuple[Path, list[str]]) -> str:
        path, more = source
        command = [compiler, *options, *more, "-x", "c++", "-c", str(path)]
        target = OBJECTS / f"{path.stem}-{_digest(path, command)}.o"
        if not target.exists():
            made = folder / target.name
            subprocess.run([*command, "-o", str(made)], check=True)
            for old in OBJECTS.glob(f"{path.stem}-*.o"):
                old.unlink(missing_ok=True)
            shutil.move(made, target)
        return str(target)

    # Of several test processes one compiles, and the others take its objects.
    with (OBJECTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with ThreadPoolExecutor(2) as pool:
            objects = list(pool.map(compiled, sources))
    library = folder / "simulated.so"
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, "-shared", *objects, *libraries, "-o", str(library)], check=True)
    return library


def _digest(source: Path, command: Sequence[str]) -> str:
    """Hash of the command, of PyTorch's version, and of the source with the files of ours that it includes."""
    digest = hashlib.sha256(f"{torch.__version__} {command}".encode())
    for path in sorted(_included(source, set())):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _included(path: Path, seen: set[Path]) -> set[Path]:
    """``path`` and, through ``#include "..."``, what it is made of."""
    if path in seen:
        return seen
    seen.add(path)
    for name in re.findall(r'^#include "(.+)"', path.read_text(), re.MULTILINE):
        found = [folder / name for folder in (path.parent, HERE) if (folder / name).exists()]
        _included(found[0].resolve(), seen)
    return seen
