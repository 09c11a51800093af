"""Compiles csrc/cuda for the block simulator into a library whose ops are ``fastadv_simulated::<op>``, on CPU tensors."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch.utils import cpp_extension

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent.parent / "csrc" / "cuda"


def host_compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


def build(compiler: str, folder: Path, kernels: Path = KERNELS) -> Path:
    """The library, from the sources in ``kernels``; CalledProcessError with the compiler's message where one fails."""
    options = [
        *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing"),
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        *("-DFASTADV_SIMULATOR", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        f"-I{HERE}",
        *(word for path in cpp_extension.include_paths() for word in ("-isystem", path)),
    ]
    sources = [*sorted(kernels.glob("*.cu")), HERE / "simulator.cpp"]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        subprocess.run([compiler, *options, "-x", "c++", "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "simulated.so"
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, "-shared", *objects, *libraries, "-o", str(library)], check=True)
    return library
