"""nvcc compiles the kernels, warnings being errors, and the committed table of what they take knows each of them."""

from __future__ import annotations

import subprocess

import nvcc
import pytest
import resources
from torch.utils.cpp_extension import library_paths

# In the place of CUDA's: it remembers what a call has returned until it is asked for it.
RUNTIME = """
static int last = 0;
extern "C" {
int failing_call() { return last = 2; }
int cudaGetLastError() {
  const int error = last;
  last = 0;
  return error;
}
const char* cudaGetErrorString(int) { return "out of memory"; }
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, unsigned long, int, int) {}
}
"""
CALLS = """
#include <cstdio>

#include "launch.h"

extern "C" cudaError_t failing_call();

int main() {
  for (int call = 0; call < 2; ++call) {
    try {
      call ? fastadv::require_launched() : fastadv::require_launched(failing_call());
      std::puts("launched");
    } catch (const std::runtime_error& error) {
      std::puts(error.what());
    }
  }
}
"""


def test_kernels_compile_without_spills():
    compiler = nvcc.find()
    if compiler is None:
        pytest.skip("nvcc is neither under CUDA_HOME nor on the PATH")
    # The shortest source; `make cuda-compile` compiles all.
    usages = resources.measure(compiler, nvcc.SOURCES[0].with_name("loss.cu"))
    assert usages
    section = resources.TABLE.read_text().split("## loss.cu")[1].split("\n## ")[0]
    for kernel, by_architecture in usages.items():
        assert f"| `{kernel}` |" in section
        assert [(usage.spilled, usage.stack) for usage in by_architecture.values()] == [(0, 0)] * 3


def test_an_error_of_a_call_is_not_told_again_of_the_next_launch(tmp_path):
    compiler = nvcc.find()
    if compiler is None:
        pytest.skip("nvcc is neither under CUDA_HOME nor on the PATH")
    source, target, runtime = tmp_path / "calls.cu", tmp_path / "calls.o", tmp_path / "runtime.cpp"
    source.write_text(CALLS)
    runtime.write_text(RUNTIME)
    kernels = f"-I{nvcc.SOURCES[0].parent}"
    nvcc.compile_object(compiler, source, target, kernels, *nvcc.architecture_options("9.0"))
    folders = library_paths()
    libraries = [word for folder in folders for word in (f"-L{folder}", "-Xlinker", f"-rpath={folder}")]
    linked = [compiler, "-cudart", "none", target, runtime, *libraries, "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([*linked, "-o", tmp_path / "calls"], check=True)
    said = subprocess.run([tmp_path / "calls"], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["fastadv: out of memory", "launched"]


def test_every_instance_of_a_template_has_its_row():
    symbols = ["_ZN7fastadv4testIfLi4EEEvPKT_", "_ZN7fastadv4testIfLi1EEEvPKT_"]
    names = resources.demangled(symbols)
    assert names == ["test<float, 4>", "test<float, 1>"]
    usages = {
        name: {"80": resources.Usage(20 + n, 0, 0, 128), "90": resources.Usage(22 + n, 8, 0, 128)}
        for n, name in enumerate(names)
    }
    rows = resources.table(usages).splitlines()
    assert rows[0] == "On sm_80 / sm_90."
    assert rows[4:] == [
        "| `test<float, 1>` | 21 / 23 | 0 / 8 | 0 | 128 |",
        "| `test<float, 4>` | 20 / 22 | 0 / 8 | 0 | 128 |",
    ]


def test_a_section_is_written_anew_alone():
    page = resources.merged("", {"mix.cu": "old", "loss.cu": "kept", "gone.cu": "left out"}, "head\n")
    assert resources.merged(page, {"mix.cu": "new"}, "head\n") == "head\n\n## loss.cu\n\nkept\n\n## mix.cu\n\nnew\n"


def test_every_source_is_in_the_table():
    table = resources.TABLE.read_text()
    assert [source.name for source in nvcc.SOURCES if f"\n## {source.name}\n" not in table] == []


def test_architectures_in_pytorchs_notation():
    assert nvcc.architecture_options("8.0; 9.0a 10.0+PTX") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    with pytest.raises(ValueError, match="got 'Hopper'"):
        nvcc.architecture_options("9.0;Hopper")
