"""Compiling the CUDA kernels: ``setup.py``, ``resources.py`` and the tests call nvcc through this file.

nvcc is called directly, not by way of ``torch.utils.cpp_extension``, which refuses where PyTorch itself has no CUDA;
with the stable ABI nothing but PyTorch's headers is needed to compile. The environment variable TORCH_CUDA_ARCH_LIST
chooses the architectures, in PyTorch's notation.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = sorted((Path(__file__).resolve().parents[1] / "cuda").glob("*.cu"))
DEFAULT_ARCHITECTURES = "8.0;9.0;10.0+PTX"
# The oldest PyTorch whose stable ABI the library needs: 2.10, as PyTorch encodes it.
STABLE_ABI = "0x020a000000000000"
# Results are promised to the bit, so a multiplication and an addition may not become one instruction unasked.
OPTIONS = (
    *("-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr"),
    *("-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={STABLE_ABI}"),
    *("-Werror", "all-warnings", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror"),
)


def find() -> str | None:
    """Return nvcc, of CUDA_HOME or on the PATH, if there is one."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")


def sources_digest() -> str:
    """Return the hash of what both libraries are compiled from, which their record keeps: _build.json."""
    root = Path(__file__).resolve().parents[2]
    paths = sorted(path for folder in ("common", "cpu", "cuda") for path in (root / "csrc" / folder).rglob("*.*"))
    content = hashlib.sha256()
    for path in (*paths, root / "fastadv" / "ops" / "schemas.py"):
        if path.suffix in (".h", ".cpp", ".cu", ".py"):
            content.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return content.hexdigest()[:16]


def architecture_options(architectures: str) -> list[str]:
    """Return nvcc's options for a list such as "8.0;9.0a;10.0+PTX", or "native"; ValueError for what is neither."""
    if architectures == "native":
        return ["-arch=native"]
    options = []
    for name in re.split(r"[;,\s]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if match is None:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST must be native or like {DEFAULT_ARCHITECTURES}, got {name!r}")
        number = match[1] + match[2]
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return options


def compile_object(nvcc: str, source: Path, target: Path, *options: str) -> str:
    """Compile one source against PyTorch's headers and return what nvcc said; RuntimeError with it where that fails."""
    from torch.utils.cpp_extension import include_paths

    headers = (word for path in include_paths() for word in ("-isystem", path))
    return _run(nvcc, *OPTIONS, *options, *headers, "-c", str(source), "-o", str(target))


def build(nvcc: str, library: Path, objects: Path, *, schemas: str) -> None:
    """Make the library of all sources; RuntimeError with nvcc's message where one does not compile.

    ``schemas`` is the hash that the library carries, ``objects`` a folder for what is made on the way.
    """
    from torch.utils.cpp_extension import library_paths

    options = architecture_options(os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES)
    objects.mkdir(parents=True, exist_ok=True)

    def compiled(source: Path) -> str:
        target = objects / f"{source.stem}.o"
        compile_object(nvcc, source, target, f'-DFASTADV_SCHEMAS="{schemas}"', *options)
        return str(target)

    mark = SOURCES[0].parent.parent / "common" / "library.cpp"
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        made = list(pool.map(compiled, [*SOURCES, mark]))
    _run(nvcc, "-shared", *made, "-o", str(library), "-cudart", "static", *_torch_libraries(library_paths()))


def _torch_libraries(folders: Iterable[str]) -> list[str]:
    """Return the libraries to link with; the CUDA part of PyTorch only where it is there."""
    options = []
    for folder in folders:
        names = [name for name in ("torch", "torch_cpu", "torch_cuda") if (Path(folder) / f"lib{name}.so").exists()]
        options += [f"-L{folder}", "-Xlinker", "--no-as-needed", *(f"-l{name}" for name in names)]
    return options


def _run(*command: str) -> str:
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"nvcc ended with {finished.returncode}\n{' '.join(command)}\n{finished.stdout}")
    return finished.stdout
