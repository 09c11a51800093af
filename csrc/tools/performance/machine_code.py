"""The kernels of a source as nvcc compiles them for sm_90, read by cuobjdump, which comes with CUDA and with Triton."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import nvcc
import resources

from performance.cases import CUDA
from performance.model import Code, Launch


def compiled(compiler: str, source: str, folder: Path) -> dict[str, Code]:
    """Return, by name, the kernels of a source compiled for sm_90."""
    target = folder / f"{source}.o"
    options = nvcc.architecture_options("9.0")
    nvcc.compile_object(compiler, CUDA / source, target, *options)
    usage = _cuobjdump("-res-usage", target)
    used = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:\d+ SHARED:(\d+)", usage)
    machine = dict(block.split("\n", 1) for block in _cuobjdump("-sass", target).split("Function : ")[1:])
    names = resources.demangled([symbol for symbol, _, _ in used])
    return {
        name: Code(int(registers), int(shared), *(_accesses(machine[symbol], kind) for kind in ("LDG", "STG")))
        for name, (symbol, registers, shared) in zip(names, used, strict=True)
    }


def _accesses(code: str, kind: str) -> dict[int, int]:
    found: Counter[int] = Counter()
    # What goes from global to shared memory past the registers (LDGSTS) is a load as well.
    for modifiers in re.findall(rf"\b{kind}(?:STS)?((?:\.\w+)*) ", code):
        width = re.search(r"\.(?:U|S)?(8|16|64|128)\b", modifiers)
        found[int(width[1]) if width else 32] += 1
    return dict(sorted(found.items(), reverse=True))


def _cuobjdump(option: str, target: Path) -> str:
    program = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if program is None and triton and triton.origin:
        program = str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    if program is None:
        raise SystemExit("cuobjdump is neither on the PATH nor in Triton")
    return subprocess.run([program, option, str(target)], capture_output=True, text=True, check=True).stdout


def kernel_of(launch: Launch, codes: Mapping[str, Code]) -> tuple[str, Code]:
    """Return the only compiled kernel that a launch names."""
    found = [(name, code) for name, code in codes.items() if re.match(launch.kernel, name)]
    if len(found) != 1:
        raise SystemExit(f"{launch.kernel}: {len(found)} kernels of that name: {[name for name, _ in found]}")
    return found[0]
