"""The trainer's step beside plain loops, on a small network: what is timed, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import training_step
from benchmarks.plain_loops import PlainTALD
from benchmarks.training_step import ROWS, Differs, measure, render


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    network = training_step._network
    monkeypatch.setattr(training_step, "_network", lambda name, *where, seed: network("resnet8", *where, seed=seed))
    monkeypatch.setattr(training_step, "BATCH", 4)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_both_ways_compute_the_same_loss_and_share_out_all_of_the_time(row):
    result = measure(row, None, "cpu", rounds=1, images=8)
    assert set(result["seconds"]) == {"fused", "plain", "plain_backward"}
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert all(result["shares"][kind] > 0 for kind in ("model", "update", "data"))
    head, _, line = render([result]).splitlines()
    assert line.startswith(f"| {row.name} | ")
    assert line.count("|") == head.count("|")


class HalfTheLoss(PlainTALD):
    def loss(self, x, y, start):
        return super().loss(x, y, start) / 2


def test_a_loop_that_computes_another_loss_is_not_timed():
    with pytest.raises(Differs, match="the first losses are"):
        measure(replace(ROWS[0], plain=HalfTheLoss), None, "cpu", rounds=1, images=8)
