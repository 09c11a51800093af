"""What stands behind every figure: turns, intervals, floors, memory."""

from __future__ import annotations

import gc
import random

import pytest
import torch

import fastadv
from benchmarks.suite.floor import Floor
from benchmarks.suite.measure import ColdClock, Effort, host_clock, interleaved, network_share, peak_bytes, warm_up
from benchmarks.suite.spread import ratio

CPU = torch.device("cpu")


def test_ratios_are_taken_within_a_round():
    slow, fast = [2.0, 20.0, 200.0, 2.0], [1.0, 10.0, 100.0, 1.0]
    assert (ratio(slow, fast).low, ratio(slow, fast).high) == (2.0, 2.0)


def test_the_interval_of_a_ratio_narrows_with_the_rounds_and_stays_the_same():
    # Powers of one number modulo a prime: no two alike.
    values = [pow(7, k, 401) / 401 for k in range(400)]
    wide, narrow = ratio(values[:20], [1.0] * 20), ratio(values, [1.0] * 400)
    assert narrow.high - narrow.low < wide.high - wide.low
    assert wide.low < wide.median < wide.high
    assert ratio(values[:20], [1.0] * 20) == wide


def test_an_interval_of_the_fewest_rounds_holds_the_median_nearly_as_often_as_it_says(monkeypatch):
    # Fewer resamples, the same interval but for its last digit.
    monkeypatch.setattr("benchmarks.suite.spread.RESAMPLES", 200)
    source, rounds = random.Random(0), Effort().fewest_rounds
    intervals = (ratio([source.lognormvariate(0, 0.1) for _ in range(rounds)], [1.0] * rounds) for _ in range(400))
    held = sum(interval.low <= 1 <= interval.high for interval in intervals) / 400
    assert held > 0.9


def test_variants_take_turns_and_none_always_follows_the_same():
    order, effort = [], Effort(rounds=3, round_seconds=0.0, warm_up_seconds=0.0)

    def clock(call, calls):
        order.append(call())
        return 1e-6

    taken = interleaved({name: lambda name=name: name for name in "abc"}, clock, effort)
    assert "".join(order) == "aaaabbbbcccc" + "abc" + "bca" + "cab"
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize("held_up", [0, 1, 2, 50])
def test_one_slow_call_does_not_decide_how_many_make_a_round(held_up):
    """The collector, or another process, may take any call of the warm-up for longer than the warm-up lasts."""
    made = iter(range(10_000))
    calls, seconds = warm_up(lambda: None, lambda call, calls: 0.09 if next(made) == held_up else 2e-5, Effort())
    assert (calls, seconds) == (200, 2e-5)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_waits_while_a_clock_runs_and_is_left_as_it_was(enabled):
    seen, before = [], gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        host_clock(lambda: seen.append(gc.isenabled()), 2)
        with pytest.raises(ZeroDivisionError):
            host_clock(lambda: 1 / 0, 1)
        assert (seen, gc.isenabled()) == ([False, False], enabled)
    finally:
        (gc.enable if before else gc.disable)()


def test_slow_calls_are_measured_in_fewer_rounds():
    effort = Effort(rounds=40, fewest_rounds=5, round_seconds=0.0, warm_up_seconds=0.0, budget_seconds=1.0)
    for seconds, rounds in ((0.1, 10), (10.0, 5), (1e-6, 40)):
        taken = interleaved({"a": lambda: None}, lambda call, calls, seconds=seconds: seconds, effort)
        assert len(taken["a"]) == rounds


def test_a_cold_clock_empties_the_caches_before_every_call(monkeypatch):
    monkeypatch.setattr("benchmarks.suite.measure.last_cache", lambda device: 1000)
    clock = ColdClock(CPU)
    seen = []

    def call():
        seen.append(int(clock._filler.abs().sum()))
        clock._filler.fill_(1)

    clock(call, 3)
    assert clock._filler.numel() == 2000
    assert seen == [0, 0, 0]


def test_a_floor_lies_between_the_measured_copies():
    floor = Floor({100: 1e-6, 10_000: 1e-4, 40_000: 4e-4}, {100: 1e-5}, 1e9)
    assert floor.seconds(1) == 1e-6
    assert floor.seconds(1000) == pytest.approx(1e-5)
    assert floor.seconds(80_000) == pytest.approx(8e-4)
    assert floor.seconds(100, cold=True) == 1e-5
    assert floor.bandwidth == pytest.approx(1e8)


def test_a_measured_floor_never_falls_with_size():
    floor = Floor.measure(CPU, Effort(rounds=2, round_seconds=0.0, warm_up_seconds=0.0))
    for copies in (floor.warm, floor.cold):
        assert list(copies.values()) == sorted(copies.values())
    assert floor.operations_per_second > 1e8


def test_copies_are_of_random_bytes_and_come_after_the_product(monkeypatch):
    seen = []

    def interleaved(variants, clock, effort):
        ((name, call),) = variants.items()
        seen.append((name, call()))
        return {name: [1.0, 1.0]}

    monkeypatch.setattr("benchmarks.suite.floor.COPIES", (4096, 8192))
    monkeypatch.setattr("benchmarks.suite.floor.interleaved", interleaved)
    Floor.measure(CPU)
    assert [name for name, _ in seen] == ["product", *["copy"] * 4]
    assert all(len(copied.unique()) > 200 for _, copied in seen[1:])


def test_the_peak_counts_what_lives_at_once():
    x = torch.zeros(1000)

    def call():
        first = x + x
        second = first * x
        del first
        return second - x

    assert peak_bytes(call, CPU) == 2 * x.nbytes


def test_the_networks_share_is_the_time_of_pytorchs_own_operators():
    a, x = torch.rand(512, 512), torch.rand(512, 2048)
    of_network = network_share(lambda: [a @ a for _ in range(4)], CPU)
    of_ours = network_share(lambda: [fastadv.project(x, x, eps=0.1, norm="l1") for _ in range(4)], CPU)
    assert 0.5 < of_network <= 1
    assert 0 <= of_ours < 0.5
