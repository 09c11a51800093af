"""What is promised to the bit: no compiler makes one instruction, which rounds once, of a product and a sum."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CPU = Path(__file__).resolve().parent.parent / "csrc" / "cpu"
# On x86 the baseline has no such instruction.
FUSING = ["-mfma"] if platform.machine() in ("x86_64", "AMD64") else []
SOURCE = """
#include "vec.h"
template <class A>
FASTADV_INLINE A line(A a, A b, A c) { return a * b + c; }
FASTADV_EXACT float exact(float a, float b, float c) { return line(a, b, c); }
"""


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_product_and_a_sum_round_each(compiler, tmp_path):
    found = shutil.which(compiler)
    if found is None:
        pytest.skip(f"there is no {compiler}")
    source, assembly = tmp_path / "line.cpp", tmp_path / "line.s"
    source.write_text(SOURCE)
    options = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-DFASTADV_NO_CLONES", *FUSING]
    subprocess.run([found, *options, f"-I{CPU}", "-S", str(source), "-o", str(assembly)], check=True)
    said = assembly.read_text()
    assert "mul" in said
    assert "fmadd" not in said
