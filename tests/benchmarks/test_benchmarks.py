"""The benchmark's cases compute the same thing, and nothing is timed where they do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.__main__ import Differs, largest_difference, run
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


def test_a_nan_is_a_difference():
    assert largest_difference(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0])) == float("inf")


def test_ratios_are_taken_within_a_round():
    slow, fast = [2.0, 20.0, 200.0, 2.0], [1.0, 10.0, 100.0, 1.0]
    assert (ratio(slow, fast).low, ratio(slow, fast).high) == (2.0, 2.0)
