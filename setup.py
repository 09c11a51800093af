"""Builds the compiled libraries of fastadv; where that fails, the package installs all the same and says why.

Environment:
    USE_CPP=0               no C++ library: the CPU is served by the reference
    USE_CUDA=0              no CUDA library: a GPU is served by Triton
    USE_CUDA=1              a CUDA library, or an error; by default it is built where nvcc and a PyTorch with CUDA are
    TORCH_CUDA_ARCH_LIST    GPUs to compile for, in PyTorch's notation; by default 8.0;9.0;10.0+PTX
    DEBUG=1                 the C++ library unoptimised, with debug information
    SANITIZE=1              the C++ library under AddressSanitizer and UndefinedBehaviorSanitizer: make sanitize
    MAX_JOBS                compilations at a time
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc" / "tools"))

import nvcc

ROOT = Path(__file__).resolve().parent
ENABLED = os.environ.get("USE_CPP", "1") != "0"
DEBUG = os.environ.get("DEBUG", "0") == "1"
SANITIZE = os.environ.get("SANITIZE", "0") == "1"
USE_CUDA = os.environ.get("USE_CUDA", "")

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    BuildExtension, missing_torch = build_ext, f"PyTorch could not be imported while building ({error})"
else:
    missing_torch = None


def digest() -> str:
    """The hash of the schemas that each library carries."""
    return runpy.run_path(str(ROOT / "fastadv" / "ops" / "schemas.py"))["digest"]()


def cpu_library() -> Extension:
    """The C++ ops. ``-fno-trapping-math`` and ``-fno-math-errno`` let loops vectorise and keep NaN and infinity."""
    sanitizers = ["-fsanitize=address,undefined"] if SANITIZE else []
    # The clones are chosen when the library is loaded, before the sanitizers are ready.
    sanitized = [*sanitizers, "-fno-sanitize-recover=all", "-O1", "-g", "-DFASTADV_NO_CLONES"]
    sources = [path for folder in ("common", "cpu") for path in (ROOT / "csrc" / folder).glob("*.cpp")]
    # What compiles longest comes first, so that at the end no core waits for it.
    sources.sort(key=lambda path: (-path.stat().st_size, path))
    return CppExtension(
        "fastadv._cpu",
        [str(path.relative_to(ROOT)) for path in sources],
        py_limited_api=True,
        extra_compile_args=[
            "-std=c++20",
            *(sanitized if SANITIZE else ["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG", "-g0"]),
            *("-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"),
            *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas"),
            f"-DTORCH_TARGET_VERSION={nvcc.STABLE_ABI}",
            f'-DFASTADV_SCHEMAS="{digest()}"',
        ],
        extra_link_args=sanitizers,
    )


class Build(BuildExtension):
    """Builds what it can, and records for ``fastadv doctor`` why the rest was not built."""

    def finalize_options(self) -> None:
        if self.editable_mode:
            # setuptools would compile in a folder that it deletes. In that of the other builds, each compiles only what
            # has changed since the last of them.
            build = Distribution().get_command_obj("build")
            build.ensure_finalized()
            self.build_temp = build.build_temp
        super().finalize_options()

    def run(self) -> None:
        library = Path(self.get_ext_fullpath("fastadv._cpu"))
        library.parent.mkdir(parents=True, exist_ok=True)
        # A failed build must not leave the library of an earlier one behind.
        library.unlink(missing_ok=True)
        reason = "not asked for (USE_CPP=0)" if not ENABLED else missing_torch or self._try()
        if reason:
            self.extensions = []
            print(f"fastadv: no compiled library, the reference serves instead: {reason}", file=sys.stderr)
        no_cuda = self._build_cuda(library.with_name("_cuda.so"))
        record = {"cpu": reason or "built", "cuda": no_cuda or "built", "sources": nvcc.sources_digest()}
        (library.parent / "_build.json").write_text(json.dumps(record, indent=2) + "\n")
        if no_cuda and USE_CUDA == "1":
            raise SystemExit(f"fastadv: USE_CUDA=1, but there is no CUDA library: {no_cuda}")

    def _build_cuda(self, library: Path) -> str | None:
        """Build the CUDA library; the reason where there is none."""
        library.unlink(missing_ok=True)
        if USE_CUDA == "0":
            return "not asked for (USE_CUDA=0)"
        compiler = nvcc.find()
        reason = missing_torch
        if compiler is None:
            reason = reason or "nvcc is neither under CUDA_HOME nor on the PATH"
        elif not reason and USE_CUDA != "1" and torch.version.cuda is None:
            reason = "this PyTorch is built without CUDA (USE_CUDA=1 builds all the same)"
        if compiler and not reason:
            try:
                nvcc.build(compiler, library, Path(self.build_temp) / "cuda", schemas=digest())
            except (OSError, RuntimeError, ValueError) as error:
                print(error, file=sys.stderr)
                reason = f"the build failed, pip -v shows where ({type(error).__name__}: {error})".splitlines()[0]
        return reason

    def _try(self) -> str | None:
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(compiler) is None:
            return f"there is no C++ compiler ({compiler!r} is not on the PATH)"
        inplace = self.inplace
        try:
            super().run()
        # Whatever a missing or broken compiler raises: distutils, ninja and torch each have their own errors.
        except Exception as error:
            self.inplace = inplace
            return f"the build failed, pip -v shows where ({type(error).__name__}: {error})".splitlines()[0]
        return None

    def get_ext_filename(self, fullname: str) -> str:
        """No Python version in the name: the library has no Python in it."""
        return os.path.join(*fullname.split(".")) + ".so"


class Wheel(bdist_wheel):
    """A wheel for every Python, of this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    # Without an extension an installation would not run Build, which records why there is none.
    ext_modules=[Extension("fastadv._cpu", []) if missing_torch else cpu_library()],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
