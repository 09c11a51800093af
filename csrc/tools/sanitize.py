"""Runs the tests of the C++ ops against a library built with AddressSanitizer and UndefinedBehaviorSanitizer.

``make sanitize`` calls it. The package is built into build/sanitized, beside the one in use. Options are pytest's, in
place of the choice of tests made here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "sanitized"
# What computes on the backend "cpu"; how it is registered and that its loops are vectorised is no matter here.
TESTS = ("tests/ops", "-k", "cpu and not opcheck", "--ignore=tests/ops/test_vectorised.py")


def build() -> None:
    """Build the package and its sanitized library in a folder of their own."""
    environment = os.environ | {"SANITIZE": "1", "USE_CUDA": "0"}
    command = (sys.executable, "setup.py", "--quiet", "build", f"--build-base={FOLDER}", f"--build-lib={FOLDER}/lib")
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    library = FOLDER / "lib" / "fastadv" / "_cpu.so"
    if not library.exists() or b"__asan_init" not in library.read_bytes():
        raise SystemExit("there is no sanitized library; see above")


def runtimes() -> str:
    """Return the libraries to load before Python: the sanitizer, and the C++ library whose exceptions it follows."""
    compiler = os.environ.get("CXX", "c++")
    paths = []
    for name in ("libasan.so", "libstdc++.so.6"):
        said = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        paths.append(said.stdout.strip())
    return " ".join(paths)


def main() -> None:
    build()
    environment = os.environ | {
        "LD_PRELOAD": runtimes(),
        # At its end Python has not freed everything, nor is it meant to.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # -P and pythonpath: not the package in the working directory. --capture: a report is written by the process that it
    # ends, and pytest would keep it to itself.
    options = ("-P", "-m", "pytest", "-q", "-o", f"pythonpath={FOLDER}/lib", "--capture=sys")
    command = (sys.executable, *options, *(sys.argv[1:] or TESTS))
    raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


if __name__ == "__main__":
    main()
