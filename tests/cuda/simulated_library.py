"""Compiles csrc/cuda for the block simulator: a library of ops ``fastadv_simulated::<op>`` that take CPU tensors."""

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
    sources += [(HERE / "guarded_outputs.cpp", []), (HERE / "faulty_kernels.cu", [])]

    def compiled(source: tuple[Path, list[str]]) -> str:
        path, more = source
        target = str(folder / f"{path.stem}.o")
        subprocess.run([compiler, *options, *more, "-x", "c++", "-c", str(path), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / "simulated.so"
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, "-shared", *objects, *libraries, "-o", str(library)], check=True)
    return library
