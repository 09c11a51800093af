"""Confidence intervals: of the difference of two methods, paired by seed, and of an accuracy over images."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from fastadv.train.runtime.imports import require

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """The mean of n paired differences and its t interval of CONFIDENCE, None where n is 1."""

    n: int
    mean: float
    interval: tuple[float, float] | None


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """values - baseline (both by seed) over the seeds they have in common; None where there is none.

    The interval is ``mean +- t s / sqrt(n)``: s the sample standard deviation of the differences, t the quantile of
    Student's distribution with n - 1 degrees of freedom.
    """
    differences = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    if not differences:
        return None
    n, mean = len(differences), statistics.mean(differences)
    if n == 1:
        return Difference(n, mean, None)
    quantile = require("scipy.stats", "a paired comparison").t.ppf((1 + CONFIDENCE) / 2, n - 1)
    half = float(quantile) * statistics.stdev(differences) / n**0.5
    return Difference(n, mean, (mean - half, mean + half))


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion, at CONFIDENCE.

    Unlike p -+ z sqrt(p (1 - p) / n) it keeps its coverage near 0 and 1, where robust accuracies lie.

    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"successes, trials: {successes}, {trials}, expected 0 <= successes <= trials > 0")
    found = require("scipy.stats", "an interval").binomtest(successes, trials)
    low, high = found.proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)
