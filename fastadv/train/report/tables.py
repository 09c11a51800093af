"""Tables in Markdown that also read well on a terminal, and the cells of results in them."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastadv.train.report.intervals import paired_difference
from fastadv.train.report.results import ACCURACIES, MethodResults, RunResults, value_of

PAIRING = (
    "Differences are paired by seed, which gives two students the same first weights, images and order. In brackets: "
    "the 95 % t interval of their mean, for each method on its own."
)


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows with padded columns; the first is the header. A bar within a cell is escaped."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Return the mean ± the sample standard deviation; one value stands alone."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def result_heads(accuracies: Mapping[str, str] = ACCURACIES) -> list[str]:
    return ["method", "n", *(f"{name}, %" for name in accuracies.values())]


def result_cells(
    label: str, results: Sequence[Mapping[str, Any]], accuracies: Mapping[str, str] = ACCURACIES
) -> list[str]:
    """Under result_heads: the label, how many networks, and the mean ± the standard deviation of each accuracy."""
    cells = []
    for key in accuracies:
        values = [100 * value_of(result, key) for result in results if key in result]
        cells.append(mean_and_spread(values, 2) if values else "not attacked")
    return [label, str(len(results)), *cells]


def teacher_label(run: RunResults) -> str:
    return f"teacher ({run.config['teacher']})"


def difference_heads(baseline: MethodResults, accuracies: Mapping[str, str] = ACCURACIES) -> list[str]:
    return [*(f"{name} minus {baseline.label}, points" for name in accuracies.values()), "pairs"]


def difference_cells(
    method: MethodResults,
    baseline: MethodResults,
    accuracies: Mapping[str, str] = ACCURACIES,
    *,
    unlike: Collection[str] = (),
) -> list[str]:
    """Under difference_heads: for each accuracy the mean paired difference and its interval, and how many pairs.

    Empty for the baseline itself, where no seed is common, and for the accuracies ``unlike``; one pair has no interval.
    """
    cells, pairs = [], ""
    for key in accuracies:
        none = method == baseline or key in unlike
        difference = None if none else paired_difference(method.values(key), baseline.values(key))
        if difference is None:
            cells.append("")
            continue
        pairs, interval = str(difference.n), ""
        if difference.interval is not None:
            interval = " [{:+.2f}, {:+.2f}]".format(*(100 * end for end in difference.interval))
        cells.append(f"{100 * difference.mean:+.2f}{interval}")
    return [*cells, pairs]
