"""Compiles every CUDA kernel for the architectures we ship, warnings being errors, and tabulates what each takes.

Prints, for every instance of a template, registers a thread and bytes of stack, spills and shared memory, and fails
where one spills. ``--write`` keeps the tables in csrc/cuda/RESOURCES.md, a section a source; ``--sources`` chooses some
of them, whose sections alone are written anew, and ``--architectures`` some GPUs. No GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nvcc

ARCHITECTURES = ("8.0", "9.0", "10.0")
TABLE = Path(__file__).resolve().parents[1] / "cuda" / "RESOURCES.md"
_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w*'(.*?)(?=Compiling entry|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Usage:
    """Resources of one kernel on one architecture: registers a thread, the rest in bytes."""

    registers: int
    stack: int
    spilled: int
    shared: int


def measure(compiler: str, source: Path, architectures: Sequence[str] = ARCHITECTURES) -> dict[str, dict[str, Usage]]:
    """Return, by kernel with all its template arguments and by architecture, what the kernels of ``source`` take."""
    options = nvcc.architecture_options(";".join(architectures))
    with tempfile.TemporaryDirectory() as folder:
        said = nvcc.compile_object(compiler, source, Path(folder) / "object.o", "-Xptxas", "-v", *options)
    entries = _ENTRY.findall(said)
    names = demangled([symbol for symbol, _, _ in entries])
    usages: dict[str, dict[str, Usage]] = defaultdict(dict)
    for name, (_, architecture, properties) in zip(names, entries, strict=True):
        usages[name][architecture] = Usage(
            registers=_number(r"Used (\d+) registers", properties),
            stack=_number(r"(\d+) bytes stack frame", properties),
            spilled=_number(r"(\d+) bytes spill stores", properties) + _number(r"(\d+) bytes spill loads", properties),
            shared=_number(r"(\d+) bytes smem", properties),
        )
    return dict(usages)


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def demangled(symbols: Sequence[str]) -> list[str]:
    """Return the kernels' names with their template arguments, without their namespaces and parameters."""
    said = subprocess.run(["c++filt", *symbols], capture_output=True, text=True, check=True).stdout
    return [_short(name) for name in said.splitlines()]


def _short(name: str) -> str:
    for prefix in ("void ", "fastadv::", "(anonymous namespace)::", "c10::"):
        name = name.replace(prefix, "")
    name = re.sub(r"\((?:Norm|Extent)\)(\d)", r"\1", name).replace(" >", ">")
    return name.split("(", 1)[0]


def table(usages: Mapping[str, Mapping[str, Usage]]) -> str:
    """Return a Markdown table; a number that is the same on all architectures stands once."""
    architectures = sorted({name for found in usages.values() for name in found}, key=int)

    def numbers(found: Mapping[str, Usage], what: str) -> str:
        values = [str(getattr(found[name], what)) for name in architectures]
        return values[0] if len(set(values)) == 1 else " / ".join(values)

    names = " / ".join(f"sm_{name}" for name in architectures)
    lines = [f"On {names}.", "", "| kernel | registers | stack | spills | shared |", "|---|---|---|---|---|"]
    for kernel, found in sorted(usages.items()):
        cells = " | ".join(numbers(found, what) for what in ("registers", "stack", "spilled", "shared"))
        lines.append(f"| `{kernel}` | {cells} |")
    return "\n".join(lines) + "\n"


def merged(text: str, sections: Mapping[str, str], head: str) -> str:
    """Return the page ``text`` with these sections, by the name of their source, new or in place of old ones."""
    known = dict(re.findall(r"^## (\S+)\n\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)) | dict(sections)
    kept = {source.name: known[source.name] for source in nvcc.SOURCES if source.name in known}
    return head + "".join(f"\n## {name}\n\n{section.strip()}\n" for name, section in sorted(kept.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {TABLE.name}")
    parser.add_argument("--sources", default="", help="names of sources, separated by commas (default: all)")
    parser.add_argument("--architectures", default=";".join(ARCHITECTURES), help="in PyTorch's notation")
    arguments = parser.parse_args()
    compiler = nvcc.find()
    if compiler is None:
        raise SystemExit("nvcc is neither under CUDA_HOME nor on the PATH")
    names = [name for name in arguments.sources.split(",") if name]
    sources = [source for source in nvcc.SOURCES if not names or source.name in names]
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release (\S+),", said)
    head = (
        "# What each CUDA kernel takes\n\n"
        "Registers a thread, and bytes of stack a thread, of spills to it and of static shared memory a block, of"
        f" every instance of a template, by nvcc {version[1] if version else 'unknown'}. None spills. Written by"
        " `make cuda-compile`.\n"
    )
    spilling = []
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        architectures = arguments.architectures.split(";")
        for source, usages in zip(
            sources, pool.map(lambda source: measure(compiler, source, architectures), sources), strict=True
        ):
            section = table(usages)
            print(f"## {source.name}\n\n{section}", flush=True)
            wrong = [
                f"{kernel} on sm_{architecture} spills {usage.spilled} bytes"
                for kernel, found in usages.items()
                for architecture, usage in found.items()
                if usage.spilled
            ]
            spilling += wrong
            # Each as soon as it is there: they take minutes.
            if arguments.write and not wrong:
                TABLE.write_text(merged(TABLE.read_text() if TABLE.exists() else "", {source.name: section}, head))
    if spilling:
        raise SystemExit("\n".join(spilling))


if __name__ == "__main__":
    main()
