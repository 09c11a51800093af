"""nvcc compiles the kernels, warnings being errors, and the committed table of what they take knows each of them."""

from __future__ import annotations

import nvcc
import pytest
import resources


def test_kernels_compile_without_spills():
    compiler = nvcc.find()
    if compiler is None:
        pytest.skip("nvcc is neither under CUDA_HOME nor on the PATH")
    # The shortest source; `make cuda-compile` compiles all.
    usages = resources.measure(compiler, nvcc.SOURCES[0].with_name("loss.cu"))
    assert usages
    table = resources.TABLE.read_text().split("## loss.cu")[1].split("\n## ")[0]
    for (kernel, dtype), by_architecture in usages.items():
        assert f"| {kernel} | {dtype} |" in table
        assert [usage.spilled for usage in by_architecture.values()] == [0, 0, 0]


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
