"""Summary of repeated measurements: medians, quartiles, and how sure a median is."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 1000


@dataclass(frozen=True)
class Spread:
    """A median and what it lies between: the quartiles of times, the 95 % interval of ratios."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The median ratio round by round, so that noise that hits a whole round cancels, and its bootstrap interval.

    The interval is that of the median over 1,000 samples of the rounds with replacement, drawn with a fixed seed. It
    takes rounds for independent, and so knows nothing of what differs from one run to the next.
    """
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    source = random.Random(0)
    medians = sorted(statistics.median(source.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    tail = RESAMPLES // 40
    return Spread(statistics.median(ratios), medians[tail], medians[-tail - 1])
