"""Confidence intervals: of the difference of two methods, paired by seed, and of an accuracy over images."""

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from fastadv.train.runtime.extras import require

CONFIDENCE = 0.95
# The 97.5 % quantile of the normal distribution.
Z = 1.959963984540054


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


def wilson(successes: int, trials: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion, within [0, 1].

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = successes / n, n = trials

    Unlike p -+ z sqrt(p (1 - p) / n) it keeps its coverage near 0 and 1, where robust accuracies lie.

    Raises ValueError unless 0 <= successes <= trials and trials > 0.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"successes, trials: {successes}, {trials}, expected 0 <= successes <= trials > 0")
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
