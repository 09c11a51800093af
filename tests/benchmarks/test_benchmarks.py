"""The benchmark's cases compute the same thing, and nothing is timed where they do not."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks.__main__ import Differs, largest_difference, main, run
from benchmarks.cases import cases
from benchmarks.measure import ratio

CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_fused_and_eager_agree(case):
    assert largest_difference(case.fused(), case.opponent(case.eager)()) <= case.atol


def test_a_wrong_result_is_not_timed(monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.interleaved", lambda *given: pytest.fail("timed all the same"))
    (case,) = (case for case in CASES if case.name.startswith("pgd_step linf 16"))
    off = dataclasses.replace(case, fused=lambda: case.fused() + 1e-6)
    with pytest.raises(Differs, match=r"results differ by 1\.\d+e-06"):
        run(off)


def test_a_case_that_differs_stops_itself_only(monkeypatch, tmp_path):
    (case,) = (case for case in CASES if case.name.startswith("mix 128"))
    off = dataclasses.replace(case, name="off", fused=lambda: case.fused() + 1)
    output = tmp_path / "results.json"
    monkeypatch.setattr("benchmarks.__main__.cases", lambda device: [off, case])
    monkeypatch.setattr("benchmarks.__main__.interleaved", lambda calls, *clock: {name: [1.0, 2.0] for name in calls})
    monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(output)])
    with pytest.raises(SystemExit, match="1 cases failed"):
        main()
    results = json.loads(output.read_text())
    assert [row["case"] for row in results["rows"]] == [case.name]
    assert len(results["not_timed"]) == 1
    assert results["not_timed"][0].startswith("off: results differ by 1")


def test_a_nan_is_a_difference():
    assert largest_difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0])) == float("inf")


def test_ratios_are_taken_within_a_round():
    slow, fast = [2.0, 20.0, 200.0, 2.0], [1.0, 10.0, 100.0, 1.0]
    assert (ratio(slow, fast).low, ratio(slow, fast).high) == (2.0, 2.0)
