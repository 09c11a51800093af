"""How far an accuracy measured on some images may be from that on all images like them."""

import math

# The 97.5 % quantile of the normal distribution, for an interval of 95 %.
Z = 1.959963984540054


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
