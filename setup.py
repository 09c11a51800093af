"""Builds the compiled library of fastadv; where that fails, the package installs all the same and says why.

Environment:
    USE_CPP=0   no compiled library: everything runs on Triton or the reference
    DEBUG=1     unoptimised, with debug information
    MAX_JOBS    compilations at a time
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
ENABLED = os.environ.get("USE_CPP", "1") != "0"
DEBUG = os.environ.get("DEBUG", "0") == "1"
# The oldest PyTorch whose stable ABI the library needs: 2.10, as PyTorch encodes it.
STABLE_ABI = "0x020a000000000000"
NO_CUDA = "this version has no CUDA C++ sources"

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    BuildExtension, missing_torch = build_ext, f"PyTorch could not be imported while building ({error})"
else:
    missing_torch = None


def cpu_library() -> Extension:
    """The C++ ops. ``-fno-trapping-math`` and ``-fno-math-errno`` let loops vectorise and keep NaN and infinity."""
    digest = runpy.run_path(str(ROOT / "fastadv" / "ops" / "schemas.py"))["digest"]()
    return CppExtension(
        "fastadv._cpu",
        sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("c*/*.cpp")),
        py_limited_api=True,
        extra_compile_args=[
            "-std=c++20",
            *(["-O0", "-g"] if DEBUG else ["-O3", "-DNDEBUG", "-g0"]),
            *("-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"),
            *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas"),
            f"-DTORCH_TARGET_VERSION={STABLE_ABI}",
            f'-DFASTADV_SCHEMAS="{digest}"',
        ],
    )


class Build(BuildExtension):
    """Builds what it can, and records for ``fastadv doctor`` why the rest was not built."""

    def run(self) -> None:
        library = Path(self.get_ext_fullpath("fastadv._cpu"))
        library.parent.mkdir(parents=True, exist_ok=True)
        # A failed build must not leave the library of an earlier one behind.
        library.unlink(missing_ok=True)
        reason = "not asked for (USE_CPP=0)" if not ENABLED else missing_torch or self._try()
        if reason:
            self.extensions = []
            print(f"fastadv: no compiled library, the reference serves instead: {reason}", file=sys.stderr)
        (library.parent / "_build.json").write_text(
            json.dumps({"cpu": reason or "built", "cuda": NO_CUDA}, indent=2) + "\n"
        )

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
    ext_modules=[cpu_library()] if ENABLED and not missing_torch else [],
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
)
