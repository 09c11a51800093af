"""The command: ``python -m performance --write`` keeps csrc/cuda/PERFORMANCE.md."""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nvcc

import performance
from performance.cases import all_cases
from performance.machine_code import compiled
from performance.page import PAGE, page
from performance.rivals import rivals


def main() -> None:
    parser = argparse.ArgumentParser(description=performance.__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the page in {PAGE.name}")
    arguments = parser.parse_args()
    compiler = nvcc.find()
    if compiler is None:
        raise SystemExit("nvcc is neither under CUDA_HOME nor on the PATH")
    cases = all_cases()
    sources = sorted({case.source for case in cases})
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda source: compiled(compiler, source, Path(folder)), sources)
        others = {case.name: rivals(case.name) for case in cases}
        text = page(dict(zip(sources, found, strict=True)), cases, others)
    print(text)
    if arguments.write:
        PAGE.write_text(text)


if __name__ == "__main__":
    main()
