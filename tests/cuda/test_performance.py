"""The page of expected times: what is read from machine code, and the model, with code that is made up."""

from __future__ import annotations

import dataclasses

import performance
import pytest
import torch
from performance import Code, Launch

from tests.ops.cases import FUSED, Draw

SASS = """
        /*0050*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0060*/                   LDG.E R8, [R2.64+0x10] ;
        /*0070*/                   LDG.E.U16 R9, [R2.64+0x20] ;
        /*0080*/                   STG.E.64 [R2.64], R8 ;
        /*0090*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;
"""
CODE = Code(registers=64, shared=0, loads={128: 4}, stores={128: 1})


def test_accesses_are_counted_by_width():
    assert performance._accesses(SASS, "LDG") == {128: 2, 32: 1, 16: 1}
    assert performance._accesses(SASS, "STG") == {64: 1}


def test_registers_shared_memory_and_warps_bound_the_blocks_of_a_multiprocessor():
    assert CODE.resident(256) == 4
    assert CODE.resident(1024) == 1
    assert Code(16, 0, {}, {}).resident(32) == 32
    assert Code(16, 48 * 1024, {}, {}).resident(32) == 4


def test_a_launch_takes_the_longer_of_its_bytes_and_its_trips():
    large = Launch("k", blocks=10**6, threads=256, memory=3e12)
    assert performance.expected(large, CODE).seconds == pytest.approx(1.0, rel=1e-3)
    waiting = Launch("k", blocks=132, threads=256, memory=0.0, trips=10)
    assert performance.expected(waiting, CODE).seconds == pytest.approx(performance.LAUNCH + 10 * performance.TRIP)
    adding = Launch("k", blocks=132, threads=256, memory=0.0, sums=10)
    took = performance.LAUNCH + performance.TRIP + 10 * performance.SUM
    assert performance.expected(adding, CODE).seconds == pytest.approx(took)
    # One block has a part of the bandwidth alone.
    few = Launch("k", blocks=1, threads=256, memory=1e6)
    assert performance.expected(few, CODE).seconds > 50 * 1e6 / performance.MEMORY


def test_clusters_lie_within_groups_and_their_blocks_overlap(monkeypatch):
    half = Launch("k", blocks=16 * 16, threads=384, memory=3e6, trips=10, cluster=16, room=112_000)
    assert half.resident(CODE) == 2
    assert half.at_once(CODE) == performance.GROUPS * performance.GROUP * 2
    first = performance.expected(half, CODE)
    assert first.trips
    assert first.seconds == pytest.approx(performance.LAUNCH + 3e6 / performance.MEMORY + 10 * performance.TRIP)
    # A multiprocessor moves the bytes of its other blocks while one waits.
    many = Launch("k", blocks=100 * 16 * 16, threads=384, memory=100 * 300e6, trips=10, cluster=16, room=112_000)
    assert not performance.expected(many, CODE).trips
    assert performance.expected(many, CODE).seconds == pytest.approx(100 * 300e6 / performance.MEMORY, rel=0.01)
    # One block a multiprocessor waits in vain.
    whole = Launch("k", blocks=100 * 128, threads=384, memory=100 * 300e6, trips=10, cluster=16, room=200_000)
    assert whole.resident(CODE) == 1
    alone = 300e6 / performance.MEMORY + 10 * performance.TRIP
    assert performance.expected(whole, CODE).seconds == pytest.approx(100 * alone, rel=0.01)
    # Unless what it needs is fetched meanwhile, as far as the cache holds it.
    fetched = dataclasses.replace(whole, trips=100, ahead=100 * 150e6)
    sooner = 150e6 / performance.MEMORY + 150e6 / performance.CACHE + 100 * performance.TRIP
    assert performance.expected(fetched, CODE).seconds == pytest.approx(100 * sooner, rel=0.01)
    assert performance.expected(dataclasses.replace(whole, ahead=100 * 150e6), CODE).seconds == pytest.approx(
        100 * 300e6 / performance.MEMORY, rel=0.01
    )
    monkeypatch.setattr(performance, "CACHE_BYTES", 128 * 200_000 - 1)
    assert performance.expected(fetched, CODE) == performance.expected(dataclasses.replace(whole, trips=100), CODE)


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


# A sum over a block takes two barriers, over a cluster three, and one more comes before the first; loads are trips too.
@pytest.mark.parametrize(
    ("name", "elements", "loads", "barriers"),
    [
        ("l2 4096x3x32x32", 3072, 1, 2),
        ("l1 4096x3x32x32", 3072, 2, 2),
        ("l2 512x3x224x224", 150_528, 1, 3),
        ("l1 512x3x224x224", 150_528, 1, 3),
    ],
)
def test_a_step_takes_as_many_trips_as_the_page_says(name, elements, loads, barriers, simulator, simulated):
    draw, norm = Draw(torch.float32), name[:2]
    eps = {"l1": 12.0, "l2": 0.5}[norm]
    x0 = draw.pixels((1, elements))
    # Where attacks are after a few steps.
    x = FUSED.project(x0 + draw.normal((1, elements), 0.05), x0, eps=eps, norm=norm)
    FUSED.pgd_step(x, draw.normal((1, elements)), x0, eps=eps, step_size=0.2 * eps, norm=norm)
    sums = simulator.simulator_barriers() // barriers
    [case] = [case for case in performance.cases() if case.name == f"pgd_step {name}"]
    [launch] = case.launches
    said = launch.trips + launch.sums + launch.exchanges
    assert said - 2 <= loads + sums <= said
