"""Compiles every CUDA kernel for the architectures we ship, warnings being errors, and tabulates what each takes.

Prints registers a thread and bytes of shared memory a block, and fails where a kernel spills registers. ``--write``
keeps the table in RESOURCES.md beside this file. No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nvcc

ARCHITECTURES = ("8.0", "9.0", "10.0")
TABLE = Path(__file__).resolve().parents[1] / "cuda" / "RESOURCES.md"
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w*'(.*?)(?=Compiling entry|\Z)", re.DOTALL)
_DTYPES = re.compile(r"(?:, )?\b(Half|BFloat16|float|double), (float|double)\b")


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture."""

    registers: int
    shared: int
    spilled: int


def measure(compiler: str, source: Path) -> dict[tuple[str, str], dict[str, Usage]]:
    """By (kernel, dtype) and architecture, what the kernels of ``source`` take."""
    options = nvcc.architecture_options(";".join(ARCHITECTURES))
    with tempfile.TemporaryDirectory() as folder:
        said = nvcc.compile_object(compiler, source, Path(folder) / "object.o", "-Xptxas", "-v", *options)
    entries = _ENTRY.findall(said)
    names = _demangled([symbol for symbol, _, _ in entries])
    usages: dict[tuple[str, str], dict[str, Usage]] = defaultdict(dict)
    for name, (_, architecture, properties) in zip(names, entries, strict=True):
        usages[_kernel_and_dtype(name)][architecture] = Usage(
            registers=_number(r"Used (\d+) registers", properties),
            shared=_number(r"(\d+) bytes smem", properties),
            spilled=_number(r"(\d+) bytes spill stores", properties) + _number(r"(\d+) bytes spill loads", properties),
        )
    return dict(usages)


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _demangled(symbols: list[str]) -> list[str]:
    return subprocess.run(["c++filt", *symbols], capture_output=True, text=True, check=True).stdout.splitlines()


def _kernel_and_dtype(name: str) -> tuple[str, str]:
    """The template's name and arguments without the dtype, and the dtype; both of them where it takes two."""
    for prefix in ("void ", "fastadv::", "(anonymous namespace)::", "c10::"):
        name = name.replace(prefix, "")
    name = name.split("(", 1)[0].replace(" >", ">")
    pair = _DTYPES.search(name)
    if pair is None:
        kernel, _, dtype = name.partition("<")
        return kernel, dtype.rstrip(">")
    dtype, accumulator = pair.groups()
    usual = accumulator == ("double" if dtype == "double" else "float")
    kernel = re.sub(r"<(float|double)>", "", _DTYPES.sub("", name)).replace("<, ", "<").replace("<>", "")
    return kernel, dtype if usual else f"{dtype} of {accumulator}"


def table(usages: dict[tuple[str, str], dict[str, Usage]]) -> str:
    """The rows of a Markdown table."""
    numbers = [architecture.replace(".", "") for architecture in ARCHITECTURES]
    lines = [
        f"| kernel | dtype | registers sm_{' / '.join(numbers)} | shared bytes |",
        "|---|---|---|---|",
    ]
    for (kernel, dtype), by_architecture in sorted(usages.items()):
        registers = " / ".join(str(by_architecture[number].registers) for number in numbers)
        shared = max(usage.shared for usage in by_architecture.values())
        lines.append(f"| {kernel} | {dtype} | {registers} | {shared} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {TABLE.name}")
    arguments = parser.parse_args()
    compiler = nvcc.find()
    if compiler is None:
        raise SystemExit("nvcc is neither under CUDA_HOME nor on the PATH")
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        usages_of_sources = pool.map(lambda source: measure(compiler, source), nvcc.SOURCES)
        measured = dict(zip(nvcc.SOURCES, usages_of_sources, strict=True))
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release (\S+),", said)
    text = (
        "# What each CUDA kernel takes\n\n"
        f"Registers a thread and static shared memory a block, by nvcc {version[1] if version else 'unknown'}."
        " No kernel spills. Written by `make cuda-compile`.\n"
    )
    for source, usages in measured.items():
        text += f"\n## {source.name}\n\n{table(usages)}"
    print(text)
    spilling = [
        f"{kernel} of {dtype} on sm_{architecture} spills {usage.spilled} bytes"
        for usages in measured.values()
        for (kernel, dtype), by_architecture in usages.items()
        for architecture, usage in by_architecture.items()
        if usage.spilled
    ]
    if spilling:
        raise SystemExit("\n".join(spilling))
    if arguments.write:
        TABLE.write_text(text)


if __name__ == "__main__":
    main()
