"""What is said of results: losses, scaling, projections, regressions."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.pages import reasons, scaling, tables
from benchmarks.suite import machine, regressions
from benchmarks.suite.spread import Spread


def row(case, fused, eager, *, sweeps=(), ratio=None):
    times = {
        name: vars(Spread(seconds, 0.9 * seconds, 1.1 * seconds))
        for name, seconds in (("fused", fused), ("eager", eager))
    }
    middle = eager / fused
    return {
        "case": case,
        "op": case.split()[0],
        "sweeps": [{"family": family, "axis": axis, "size": size} for family, axis, size in sweeps],
        "differences": {"fused": 0.0},
        "seconds": times,
        "ratio_to_fused": {"eager": vars(ratio or Spread(middle, 0.9 * middle, 1.1 * middle))},
        "cold_seconds": {},
        "cold_ratio_to_fused": {},
        "peak_bytes": {"fused": 4096, "eager": 8192},
        "missing": {"compiled": "no compiler"},
        "bytes": 10**6,
        "operations": 10**7,
    }


def results(*rows):
    copies = [{"bytes": size, "seconds": size * 1e-10, "cold_seconds": size * 2e-10} for size in (10**3, 10**9)]
    floor = {"copies": copies, "operations_per_second": 1e11, "operations_of": "a product"}
    return {"machine": {}, "floor": floor, "overhead": {}, "rows": list(rows), "not_timed": []}


def test_losses_are_named_and_counted():
    rows = [row("won", 1.0, 2.0), row("lost", 2.0, 1.0), row("even", 1.0, 1.0)]
    text = tables.losses(rows)
    assert text.startswith("1 of 3 comparisons are lost, 1 are even within their interval.")
    assert "Lost:\n\n- lost: eager / fused 0.50 (0.45 to 0.55)\n\nEven:\n\n- even: eager" in text
    assert "won" not in text
    assert "memory" not in text
    thirsty = row("thirsty", 1.0, 2.0) | {"peak_bytes": {"fused": 9000, "eager": 8192}}
    assert "Take more memory than an opponent:\n\n- thirsty: 8.8 KiB, eager 8.0 KiB" in tables.losses([thirsty])


def test_a_missing_opponent_is_a_dash_with_its_reason():
    rows = [row("a", 1e-6, 2e-6), row("b", 1e-6, 2e-6)]
    line = tables.main_table(rows).splitlines()[2]
    assert line == "| a | 1 | 2 | 2.00 (1.80 to 2.20) | 4.0 |"
    compiled = row("c", 1e-6, 2e-6)
    compiled["seconds"]["compiled"] = {"median": 3e-6}
    lines = tables.main_table([*rows, compiled]).splitlines()
    assert lines[0] == "| case | fused, us | eager, us | compiled, us | eager / fused | peak, KiB |"
    assert lines[2:4] == [f"| {name} | 1 | 2 | - | 2.00 (1.80 to 2.20) | 4.0 |" for name in "ab"]
    assert tables.absent(rows) == "Missing opponents:\n\n- compiled: no compiler (2 cases)"


def test_a_row_that_is_far_from_its_floor_or_close_to_the_compiled_formula_is_explained():
    compiled = {"ratio_to_fused": {"compiled": vars(Spread(1.2, 1.1, 1.3))}}
    far = row("project l2 128x3x32x32", 1e-6, 2e-6) | {"share_of_floor": 0.4, "operations": None}
    both = far | compiled | {"operations": 3000}
    near = far | {"share_of_floor": 0.6}
    distance, same = reasons.of(both).values()
    head = "| case | share of floor | share of arithmetic | compiled / fused | why |\n|---|---|---|---|---|\n"
    lines = f"| {far['case']} | 0.40 | - | - | floor: {distance} |\n"
    lines += f"| {far['case']} | 0.40 | 0.75 | 1.20 | floor: {distance}; torch.compile: {same} |"
    assert tables.explanations([far, near, both], {"operations_per_second": 4e9}).endswith(head + lines)
    assert tables.explanations([near]).endswith("None.")


def test_a_reason_that_nobody_has_given_is_missed():
    unknown = row("fold 128x100", 1e-6, 2e-6) | {"share_of_floor": 0.4}
    assert reasons.of(unknown) == {"floor": None}
    assert f"| fold 128x100 | 0.40 | - | - | floor: {tables.UNEXPLAINED} |" in tables.explanations([unknown])
    known = row("project l2 128x3x32x32", 1e-6, 2e-6) | {"share_of_floor": 0.4}
    assert reasons.of(known, on_gpu=True) == {"floor": None}


def test_a_reason_holds_for_sizes_too():
    small, large = (
        row(f"mix {size}", 1e-6, 2e-6) | {"share_of_floor": 0.4, "bytes": moved}
        for size, moved in (("1x3x32x32", 2**20), ("4096x3x32x32", 2**27))
    )
    assert reasons.of(small) == {"floor": reasons.CALL}
    assert reasons.of(large) == {"floor": reasons.NEW_MEMORY}


def test_what_is_to_be_known_of_both_sides_is_said():
    rows = [row("a", 1e-6, 2e-6) | {"note": "the same code"}, row("b", 1e-6, 2e-6)]
    assert tables.notes(rows) == "Of what both sides do:\n\n- a: the same code"
    assert tables.notes(rows[1:]) == ""


def test_an_exponent_is_the_slope_in_logarithms():
    assert scaling.fitted_exponent([1, 10, 100], [3.0, 30 * 10**0.5, 3000.0]) == pytest.approx(1.5)


def test_small_sizes_do_not_count_into_the_exponent():
    points = [row(f"step {n}", max(1.0, n / 8), 1.0, sweeps=[("step", "batch", n)]) for n in (1, 2, 4, 8, 16, 32)]
    (curve,) = scaling.curves(results(*reversed(points)))
    assert curve.sizes == (1, 2, 4, 8, 16, 32)
    assert curve.exponent == pytest.approx(1.0)
    assert 0.2 < curve.overall < 0.8


def projected(**changes):
    step = row("pgd_step l2 16x3x224x224", 16e-3, 1.0)
    four = row("svgd_step 128x4x3072", 1e-3, 1.0) | {"bytes": 52 * 128 * 3072}
    many = row("svgd_step 16x32x3072", 1.0, 1.0) | {"bytes": 12 * 16 * 32 * 3072, "operations": 5 * 32 * 16 * 32 * 3072}
    return scaling.projection(results(*(found | changes for found in (step, four, many))))


def test_a_projection_follows_from_the_figures():
    time, particles, memory, first = projected()
    # 1 ms an image, 1,281,167 images, ten steps.
    assert "spends 3.6 hours in steps" in time
    # 52 bytes a pixel, 150,528 pixels, at 10 GB/s.
    assert "100 TB in an ImageNet epoch: 2.8 hours at this machine's copy bandwidth of 10.0 GB/s" in particles
    assert "1.87 GiB in all" in memory
    # Ten operations a byte, twelve bytes and 5 n operations a pixel.
    assert "n = 24 on" in first


def test_what_was_not_measured_is_not_projected():
    assert scaling.projection(results()) == ["This file has no sweeps to project from."]


def test_only_what_is_slower_by_more_than_the_noise_is_named():
    before = results(row("same", 1.0, 4.0), row("slower", 1.0, 4.0), row("gone", 1.0, 4.0))
    # A machine half as fast makes both slower; only one has lost its gain over the eager formula.
    now = results(row("same", 2.0, 8.0), row("slower", 3.0, 8.0), row("new", 9.0, 1.0))
    found = regressions.slower(before, now)
    assert [case.case for case in found] == ["slower"]
    assert (found[0].times, found[0].lost) == (3.0, pytest.approx(1.5))
    assert "slower" in regressions.report(found, [], "file")
    assert regressions.slower(before, copy.deepcopy(before)) == []
    assert regressions.report([], [], "file") == "nothing is slower than in file by more than the noise"


def test_runs_that_were_not_made_alike_say_so():
    before, now = results(), results()
    before["machine"], now["machine"] = {"threads": 2, "date": "then"}, {"threads": 1, "date": "now"}
    assert regressions.unlike(before, now) == ["threads 2 there, 1 here"]
    assert "threads 2 there, 1 here\nnothing is slower" in regressions.report([], regressions.unlike(before, now), "f")
    assert regressions.unlike(before, before) == []


def test_a_compiled_attack_that_comes_close_has_its_reason():
    attack = row("attack pgd linf, 10 steps on a small network, 32x3x32x32", 1.0, 1.1)
    del attack["bytes"]
    attack["ratio_to_fused"]["compiled"] = vars(Spread(0.9, 0.8, 1.0))
    assert "ours compiles whole too" in reasons.of(attack)["torch.compile"]


def test_processors_of_one_name_have_results_of_their_own(monkeypatch):
    names = set()
    for instructions in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=instructions: found)
        names.add(machine.slug(torch.device("cpu")))
    assert len(names) == 2
    assert any("-avx2-" in name for name in names)
