"""The compiled library: which instructions its loops use, and what it needs of others."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

import pytest

from tests.ops.available import require_backend
from tests.ops.isolated import PACKAGE

LIBRARY = PACKAGE / "_cpu.so"
# The loop nests: a part of the demangled name of their float32 version.
LOOPS = (
    "project_onto_linf<float",
    "project_onto_other<float",
    "linf_steps<fastadv::(anonymous namespace)::GradientRule<float",
    "linf_steps<fastadv::(anonymous namespace)::MomentumRule<float",
    "l2_steps<fastadv::(anonymous namespace)::GradientRule<float",
    "l2_steps<fastadv::(anonymous namespace)::MomentumRule<float",
    "boundary_steps<float",
    "mix_with_partners<float",
    "gather_from_partners<float",
    "l1_steps<fastadv::(anonymous namespace)::GradientRule<float",
    "linf_starts<float",
    "move_images<float",
    "scale_rows<float, float",
    "activation_boundaries<float",
    "triplets<fastadv::Euclidean, float",
    "triplets<fastadv::Chebyshev, float",
    "compare_angles<float",
    "gradient<float",
    "rows<fastadv::(anonymous namespace)::KlDistill, 2, float",
    "rows<fastadv::(anonymous namespace)::KdLoss, 2, float",
    "rows<fastadv::(anonymous namespace)::LossMatching, 2, float",
    "rows<fastadv::(anonymous namespace)::LogOdds<false>, 1, float",
    "rows<fastadv::(anonymous namespace)::LogOdds<true>, 1, float",
    "rows<fastadv::(anonymous namespace)::Divergence, 2, float",
    "rows<fastadv::(anonymous namespace)::Gap<2>, 1, float",
    "rows<fastadv::(anonymous namespace)::Gap<4>, 1, float",
)
# Suffix of each clone in the mangled name, and packed float32 arithmetic on its widest register.
CLONES = {
    "arch_x86_64_v4": r"\bv(add|sub|mul|fn?m(add|sub)\w*|max|min)ps\b.*%zmm",
    "arch_x86_64_v3": r"\bv(add|sub|mul|fn?m(add|sub)\w*|max|min)ps\b.*%ymm",
    "default": r"\b(add|sub|mul|max|min)ps\b.*%xmm",
}


def output_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def disassembly() -> dict[str, str]:
    """The instructions of every function of the library that has a name."""
    require_backend("cpu")
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        pytest.skip("clones are made for x86-64 on Linux only")
    listing = output_of("objdump", "-d", "--no-show-raw-insn", "-C", str(LIBRARY))
    return dict(re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)*)", listing, re.MULTILINE))


@pytest.mark.parametrize("clone", CLONES)
@pytest.mark.parametrize("loop", LOOPS)
def test_loops_are_vectorised_for_every_machine(loop, clone, disassembly):
    clones = [body for name, body in disassembly.items() if loop in name and clone in name]
    assert clones, f"the library has no {clone} version of {loop}>"
    for body in clones:
        assert re.search(CLONES[clone], body), f"{loop}> has no packed arithmetic for {clone}"


def test_nothing_of_python_or_cuda_is_needed():
    require_backend("cpu")
    undefined = output_of("nm", "-D", "--undefined-only", str(LIBRARY)).split()
    assert any(name.startswith("aoti_torch_") for name in undefined)
    assert [name for name in undefined if re.match(r"_?Py[A-Z_]", name)] == []
    assert [name for name in undefined if re.search(r"cuda|cublas|nvrtc", name, re.IGNORECASE)] == []


def test_no_library_of_python_or_cuda_is_linked():
    require_backend("cpu")
    dynamic = output_of("readelf", "-d", str(LIBRARY))
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert [name for name in needed if re.search(r"python|cuda|cudart", name)] == []
