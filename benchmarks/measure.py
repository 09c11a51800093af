"""Interleaved timing: every round times each variant once, and ratios are taken within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ROUNDS = 41
ROUND_SECONDS = 0.004
WARM_UP_SECONDS = 0.05


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high)


def interleaved(variants: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds a call of each variant, one number a round, the variants taking turns within a round."""
    calls = {name: _warm_up(call) for name, call in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, call in variants.items():
            seconds[name].append(_time(call, calls[name]))
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> Spread:
    """The ratio round by round: noise that hits a whole round cancels."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def _warm_up(call: Callable[[], object]) -> int:
    """Run ``call`` until it is warm; how many calls fill a round."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < WARM_UP_SECONDS or count < 3:
        call()
        count += 1
    return max(1, round(ROUND_SECONDS * count / elapsed))


def _time(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
