"""The page of expected times: what is read from machine code and from Inductor, and the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from performance import cases, machine_code, model
from performance.inductor import plan
from performance.model import Code, Launch, Program
from performance.page import PAGE

from benchmarks.opponents import losses
from tests.ops.cases import CASES, FUSED, Draw

SASS = """
        /*0050*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0060*/                   LDG.E R8, [R2.64+0x10] ;
        /*0070*/                   LDG.E.U16 R9, [R2.64+0x20] ;
        /*0080*/                   STG.E.64 [R2.64], R8 ;
        /*0090*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;
"""
CODE = Code(registers=64, shared=0, loads={128: 4}, stores={128: 1})


def test_accesses_are_counted_by_width():
    assert machine_code._accesses(SASS, "LDG") == {128: 2, 32: 1, 16: 1}
    assert machine_code._accesses(SASS, "STG") == {64: 1}


def test_registers_shared_memory_and_warps_bound_the_blocks_of_a_multiprocessor():
    assert CODE.resident(256) == 4
    assert CODE.resident(1024) == 1
    assert Code(16, 0, {}, {}).resident(32) == 32
    assert Code(16, 48 * 1024, {}, {}).resident(32) == 4


def test_a_launch_takes_the_longer_of_its_bytes_and_its_trips():
    large = Launch("k", blocks=10**6, threads=256, memory=3e12)
    assert model.expected(large, CODE).seconds == pytest.approx(1.0, rel=1e-3)
    waiting = Launch("k", blocks=132, threads=256, memory=0.0, trips=10)
    assert model.expected(waiting, CODE).seconds == pytest.approx(model.LAUNCH + 10 * model.TRIP)
    adding = Launch("k", blocks=132, threads=256, memory=0.0, sums=10)
    took = model.LAUNCH + model.TRIP + 10 * model.SUM
    assert model.expected(adding, CODE).seconds == pytest.approx(took)
    # One block has a part of the bandwidth alone.
    few = Launch("k", blocks=1, threads=256, memory=1e6)
    assert model.expected(few, CODE).seconds > 50 * 1e6 / model.MEMORY


def test_clusters_lie_within_groups_and_their_blocks_overlap(monkeypatch):
    half = Launch("k", blocks=16 * 16, threads=384, memory=3e6, trips=10, cluster=16, room=112_000)
    assert half.resident(CODE) == 2
    assert half.at_once(CODE) == model.GROUPS * model.GROUP * 2
    first = model.expected(half, CODE)
    assert first.trips
    assert first.seconds == pytest.approx(model.LAUNCH + 3e6 / model.MEMORY + 10 * model.TRIP)
    # A multiprocessor moves the bytes of its other blocks while one waits.
    many = Launch("k", blocks=100 * 16 * 16, threads=384, memory=100 * 300e6, trips=10, cluster=16, room=112_000)
    assert not model.expected(many, CODE).trips
    assert model.expected(many, CODE).seconds == pytest.approx(100 * 300e6 / model.MEMORY, rel=0.01)
    # One block a multiprocessor waits in vain.
    whole = Launch("k", blocks=100 * 128, threads=384, memory=100 * 300e6, trips=10, cluster=16, room=200_000)
    assert whole.resident(CODE) == 1
    alone = 300e6 / model.MEMORY + 10 * model.TRIP
    assert model.expected(whole, CODE).seconds == pytest.approx(100 * alone, rel=0.01)
    # Unless what it needs is fetched meanwhile, as far as the cache holds it.
    fetched = dataclasses.replace(whole, trips=100, ahead=100 * 150e6)
    sooner = 150e6 / model.MEMORY + 150e6 / model.CACHE + 100 * model.TRIP
    assert model.expected(fetched, CODE).seconds == pytest.approx(100 * sooner, rel=0.01)
    assert model.expected(dataclasses.replace(whole, ahead=100 * 150e6), CODE).seconds == pytest.approx(
        100 * 300e6 / model.MEMORY, rel=0.01
    )
    monkeypatch.setattr(model, "CACHE_BYTES", 128 * 200_000 - 1)
    assert model.expected(fetched, CODE) == model.expected(dataclasses.replace(whole, trips=100), CODE)


def test_what_does_not_fit_into_the_cache_is_read_from_memory():
    assert model.cached(5.0, model.CACHE_BYTES) == (0.0, 5.0)
    assert model.cached(5.0, 2 * model.CACHE_BYTES) == (5.0, 0.0)


def test_constants_are_those_of_the_sources():
    assert cases.constant("launch.h", "kMaxThreads") == 512
    assert cases.constant("svgd.cu", "kCacheBytes") == 192 * 1024
    with pytest.raises(SystemExit, match=r"launch\.h has no constant kNone"):
        cases.constant("launch.h", "kNone")


def test_what_others_launch_takes_no_less_than_its_kernels_bytes_and_sums():
    launches = Program(launches=10, moved=0.0, sums=5)
    assert model.at_least(launches, 0.0) == pytest.approx(10 * (model.LAUNCH + model.TRIP) + 5 * model.SUM)
    # Between kernels, the cache holds what is small.
    assert model.at_least(Program(1, 8e6), 6e6) == pytest.approx(model.LAUNCH + 6e6 / model.MEMORY + 2e6 / model.CACHE)
    assert model.at_least(Program(1, 8e8), 6e8) == pytest.approx(model.LAUNCH + 8e8 / model.MEMORY)
    # Read again: of rows that a multiprocessor holds, of those of which the cache holds one for each, of longer ones.
    for row, seconds in ((model.SHARED, 0), (300_000, 1e9 / model.CACHE), (400_000, 1e9 / model.MEMORY)):
        program = Program(1, 6e8, again=((1e9, row),))
        assert model.at_least(program, 6e8) == pytest.approx(model.LAUNCH + 6e8 / model.MEMORY + seconds)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plan is made for a GPU that is made up")
def test_a_plan_counts_the_kernels_bytes_loops_and_sums_of_torch_compile():
    x, rows = torch.empty(1000, device="meta"), torch.empty(4096, 32_000, device="meta")
    assert plan(lambda x, y: (x + y).relu(), x, x) == Program(launches=1, moved=3 * 4000)
    # A loop for the maximum and the sum, another for the result.
    softmax = plan(lambda x: x.softmax(1), rows)
    assert softmax == Program(1, moved=2 * 4 * rows.numel(), again=((4.0 * rows.numel(), 4 * 32_000),), sums=1)
    sort = plan(lambda x: x.sort(1).values.cumsum(1) + 1, rows[:, :3000])
    assert sort.launches >= 2
    assert sort.sums == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plan is made for a GPU that is made up")
def test_a_loss_that_autograd_differentiates_is_planned_in_two_parts():
    rows = torch.empty(16_384, 1000, device="meta")
    one = plan(lambda x, y: torch.autograd.grad(_loss(x.requires_grad_(), y), x)[0], rows, rows)
    two = plan(_loss, rows, rows, trained=True)
    assert two.launches > one.launches
    # Both inputs are read once more.
    assert two.moved - one.moved == pytest.approx(2 * 4 * rows.numel(), rel=0.01)


def _loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return losses.kl_distill(x, y, temperature=4.0)


def test_every_case_has_a_row_and_a_kernel_that_is_not_there_is_told():
    names = [case.name for case in cases.all_cases()]
    assert len(set(names)) == len(names)
    rows = PAGE.read_text().split("## What")[0]
    assert [name for name in names if f"| {name} |" not in rows] == []
    with pytest.raises(SystemExit, match="pair: 0 kernels of that name"):
        machine_code.kernel_of(Launch("pair", 1, 32, 0.0), {"other<4>": CODE})


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
    [case] = [case for case in cases.all_cases() if case.name == f"pgd_step {name}"]
    [launch] = case.launches
    said = launch.trips + launch.sums + launch.exchanges
    assert said - 2 <= loads + sums <= said


@pytest.mark.parametrize(("op", "case"), [("momentum_step linf", "momentum_step-linf"), ("bss_step", "bss_step")])
def test_a_step_that_searches_for_nothing_takes_as_many_sums_as_the_page_says(op, case, simulator, simulated):
    [step] = [step for step in CASES if step.name == case]
    step.call(FUSED, step.make(Draw(torch.float32), (1, 3, 32, 32)))
    [[launch]] = [row.launches for row in cases.all_cases() if row.name == f"{op} 4096x3x32x32"]
    assert launch.sums == simulator.simulator_barriers() // 2
