"""Tables in Markdown that also read well on a terminal, and the cells of results in them."""

import statistics
from collections.abc import Mapping, Sequence

from fastadv.train.report.intervals import paired_difference
from fastadv.train.report.results import ACCURACIES, MethodResults, RunResults

PAIRING = (
    "Differences are paired by seed, which gives two students the same first weights, images and order. In brackets: "
    "the 95 % t interval of their mean, for each method on its own."
)
RESULT_HEADS = ["method", "n", *(f"{name}, %" for name in ACCURACIES.values())]


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows with padded columns; the first is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Return the mean ± the sample standard deviation; one value stands alone."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def result_cells(label: str, results: Sequence[Mapping[str, float]]) -> list[str]:
    """Under RESULT_HEADS: the label, how many networks, and the mean ± the standard deviation of each accuracy."""
    accuracies = (mean_and_spread([100 * result[key] for result in results], 2) for key in ACCURACIES)
    return [label, str(len(results)), *accuracies]


def teacher_label(run: RunResults) -> str:
    return f"teacher ({run.config['teacher']})"


def difference_heads(baseline: MethodResults) -> list[str]:
    return [*(f"{name} minus {baseline.label}, points" for name in ACCURACIES.values()), "pairs"]


def difference_cells(method: MethodResults, baseline: MethodResults) -> list[str]:
    """Under difference_heads: for each accuracy the mean paired difference and its interval, and how many pairs.

    Empty for the baseline itself and where no seed is common; one pair has no interval.
    """
    cells, pairs = [], ""
    for key in ACCURACIES:
        difference = None if method == baseline else paired_difference(method.values(key), baseline.values(key))
        if difference is None:
            cells.append("")
            continue
        pairs, interval = str(difference.n), ""
        if difference.interval is not None:
            interval = " [{:+.2f}, {:+.2f}]".format(*(100 * end for end in difference.interval))
        cells.append(f"{100 * difference.mean:+.2f}{interval}")
    return [*cells, pairs]
