"""The page of expected times: what is read from machine code, and the model, with code that is made up."""

from __future__ import annotations

import performance
import pytest
from performance import Code, Launch

SASS = """
        /*0050*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0060*/                   LDG.E R8, [R2.64+0x10] ;
        /*0070*/                   LDG.E.U16 R9, [R2.64+0x20] ;
        /*0080*/                   STG.E.64 [R2.64], R8 ;
"""
CODE = Code(registers=64, shared=0, loads={128: 4}, stores={128: 1})


def test_accesses_are_counted_by_width():
    assert performance._accesses(SASS, "LDG") == {128: 1, 32: 1, 16: 1}
    assert performance._accesses(SASS, "STG") == {64: 1}


def test_registers_shared_memory_and_warps_bound_the_blocks_of_a_multiprocessor():
    assert CODE.resident(256) == 4
    assert CODE.resident(1024) == 1
    assert Code(16, 0, {}, {}).resident(32) == 32
    assert Code(16, 48 * 1024, {}, {}).resident(32) == 4


def test_a_launch_takes_the_longer_of_its_bytes_and_its_trips():
    large = Launch("k", blocks=10**6, threads=256, memory=3e12)
    assert performance.seconds(large, CODE) == pytest.approx(1.0, rel=1e-3)
    waiting = Launch("k", blocks=132, threads=256, memory=0.0, trips=10)
    assert performance.seconds(waiting, CODE) == pytest.approx(performance.LAUNCH + 10 * performance.TRIP)
    # One block has a part of the bandwidth alone.
    few = Launch("k", blocks=1, threads=256, memory=1e6)
    assert performance.seconds(few, CODE) > 50 * 1e6 / performance.MEMORY


def test_what_does_not_fit_into_the_cache_is_read_from_memory():
    assert performance.cached(5.0, performance.CACHE_BYTES) == (0.0, 5.0)
    assert performance.cached(5.0, 2 * performance.CACHE_BYTES) == (5.0, 0.0)


def test_constants_are_those_of_the_sources():
    assert performance.constant("launch.h", "kMaxThreads") == 512
    assert performance.constant("svgd.cu", "kCacheBytes") == 192 * 1024
    with pytest.raises(SystemExit, match=r"launch\.h has no constant kNone"):
        performance.constant("launch.h", "kNone")


def test_every_case_has_a_row_and_a_kernel_that_is_not_there_is_told():
    names = [case.name for case in performance.cases()]
    assert len(set(names)) == len(names)
    rows = performance.PAGE.read_text().split("## What")[0]
    assert [name for name in names if f"| {name} |" not in rows] == []
    with pytest.raises(SystemExit, match="pair: 0 kernels of that name"):
        performance.kernel_of(Launch("pair", 1, 32, 0.0), {"other<4>": CODE})
