"""The pictures of a file of results: bars for each family, a roofline, scaling. Each carries the digest of its file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.pages.families import FAMILIES, Family
from benchmarks.pages.scaling import curves
from benchmarks.suite import results

Results = Mapping[str, Any]
# By whom the bar is: colours that those who confuse red and green tell apart.
COLOURS = {"eager": "#0072b2", "compiled": "#e69f00", "other": "#56b4e9"}
LABELS = {
    "eager": "the formula in eager PyTorch",
    "compiled": "the formula under torch.compile",
    "other": "another library or another form, by its name",
}
LOST = "#d55e00"
MARKERS = "osD^v"


def draw(path: Path) -> list[Path]:
    """Draw the pictures of ``path`` beside it; those for which it has no figures are left out."""
    measured = results.read(path)
    written = []
    for name, picture in PICTURES.items():
        figure = picture(measured)
        if figure is not None:
            target = place(path, name)
            # The software's name would differ from one version of matplotlib to the next.
            figure.savefig(target, dpi=100, metadata={"Description": digest(path), "Software": None})
            written.append(target)
    return written


def links(path: Path) -> dict[str, str]:
    """Markdown for each picture that ``path`` has figures for, by its name, from the folder above it."""
    measured = results.read(path)
    return {
        name: f"![{text}]({path.parent.name}/{place(path, name).name})"
        for name, text in TITLES.items()
        if HAS[name](measured)
    }


def place(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}.png")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def speedup(family: Family, measured: Results) -> Any:
    """A bar for each opponent of each case of ``family``: its time over fastadv's, from 1, with the ratio written."""
    rows = family.rows(measured["rows"])
    if not rows:
        return None
    bars = [_bars(row) for row in rows]
    count = sum(map(len, bars))
    figure, (axes,) = _figure(9, 1.3 + 0.19 * (count + 0.6 * len(rows)))
    y, centres = 0.0, []
    for of_case in bars:
        centres.append(y + (len(of_case) - 1) / 2)
        for name, ratio in of_case.items():
            _bar(axes, y, name, ratio)
            y += 1
        y += 0.6
    names, shared = _shared_end([row["case"] for row in rows])
    axes.set_yticks(centres, names, fontsize=7.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(y, -1)
    axes.set_xscale("log")
    highest = max(ratio["high"] for of_case in bars for ratio in of_case.values())
    lowest = min(ratio["low"] for of_case in bars for ratio in of_case.values())
    # Room for the words beyond the longest bar; at least from a half to two.
    axes.set_xlim(min(0.5, 0.8 * lowest), max(2.0, highest) * max(2.0, highest / lowest) ** 0.25)
    _tick(axes.xaxis)
    axes.axvline(1, color="black", linewidth=0.9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_xlabel("times as long as fastadv (right of 1: fastadv is faster; the line at an end: 95 % interval)")
    axes.set_title(family.title + shared, fontsize=10)
    _legend(axes, bars)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def _bars(row: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    return {name: ratio for name, ratio in row["ratio_to_fused"].items() if name != "replayed"}


def _shared_end(cases: list[str]) -> tuple[list[str], str]:
    """The names without what all of them have after their first comma, and that."""
    starts, commas, ends = zip(*(case.partition(", ") for case in cases), strict=True)
    if len(cases) == 1 or len(set(ends)) > 1 or not ends[0]:
        return cases, ""
    return list(starts), commas[0] + ends[0]


def _bar(axes: Any, y: float, name: str, ratio: Mapping[str, float]) -> None:
    median, low, high = ratio["median"], ratio["low"], ratio["high"]
    lost = high < 1
    colour = COLOURS.get(name, COLOURS["other"])
    axes.barh(y, median - 1, left=1, height=0.85, color=colour, edgecolor=LOST if lost else colour, hatch="//" * lost)
    axes.plot([low, high], [y, y], color="black", linewidth=0.8)
    text = f"{median:.2f}" if median < 10 else f"{median:.1f}"
    said = text if name in ("eager", "compiled") else f"{text} {name}"
    right = max(1.0, median, high)
    axes.annotate(
        said,
        (right, y),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color=LOST if lost else "black",
    )


def _legend(axes: Any, bars: list[dict[str, Mapping[str, float]]]) -> None:
    from matplotlib.patches import Patch

    shown = {name if name in COLOURS else "other" for of_case in bars for name in of_case}
    handles = [Patch(color=COLOURS[name], label=LABELS[name]) for name in COLOURS if name in shown]
    if any(ratio["high"] < 1 for of_case in bars for ratio in of_case.values()):
        handles.append(Patch(facecolor="white", edgecolor=LOST, hatch="//", label="faster than fastadv"))
    axes.figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7.5, frameon=False)


def roofline(measured: Results) -> Any:
    """Operations a second against operations a byte, below what copies and matrix products of this machine allow."""
    if not _has_roofline(measured):
        return None
    floor, rows = measured["floor"], [row for row in measured["rows"] if row.get("operations")]
    largest = floor["copies"][-1]
    fastest = max(floor["copies"], key=lambda copy: copy["bytes"] / copy["seconds"])
    figure, (axes,) = _figure(9, 6)
    densities = [10 ** (tenth / 10) for tenth in range(-10, 31)]
    for copy, style, where in ((largest, "-", "memory"), (fastest, "--", "cache")):
        rate = copy["bytes"] / copy["seconds"]
        roof = [min(rate * density, floor["operations_per_second"]) / 1e9 for density in densities]
        label = f"what {where} ({rate / 1e9:.0f} GB/s) and matrix products allow"
        axes.plot(densities, roof, style, color="black", label=label)
    for number, op in enumerate(sorted({row["op"] for row in rows})):
        of_op = [row for row in rows if row["op"] == op]
        axes.scatter(
            [row["operations"] / row["bytes"] for row in of_op],
            [row["operations"] / row["seconds"]["fused"]["median"] / 1e9 for row in of_op],
            label=op,
            color=f"C{number % 10}",
            marker=MARKERS[number // 10],
            s=22,
        )
    axes.set(xscale="log", yscale="log", xlabel="operations a byte, at least", ylabel="10^9 operations a second")
    for axis in (axes.xaxis, axes.yaxis):
        _tick(axis)
    axes.tick_params(axis="x", rotation=60)
    axes.grid(alpha=0.25)
    axes.set_title("Each case against what the machine allows", fontsize=10)
    figure.legend(loc="outside right center", fontsize=7.5, frameon=False)
    return figure


def scaling(measured: Results) -> Any:
    """Time against size, fused and eager, a panel an axis."""
    found = curves(measured)
    if not found:
        return None
    from matplotlib.lines import Line2D

    axes_of = sorted({curve.axis for curve in found})
    figure, panels = _figure(4.2 * len(axes_of), 4.4, len(axes_of))
    for panel, axis in zip(panels, axes_of, strict=True):
        for number, curve in enumerate(curve for curve in found if curve.axis == axis):
            label = f"{curve.family}: size^{curve.exponent:.2f}"
            panel.plot(curve.sizes, [1e6 * time for time in curve.seconds], "o-", color=f"C{number}", label=label)
            panel.plot(curve.sizes, [1e6 * time for time in curve.eager_seconds], "x:", color=f"C{number}")
        panel.set(xscale="log", yscale="log", xlabel=axis)
        sizes = sorted({size for curve in found if curve.axis == axis for size in curve.sizes})
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=60, fontsize=7)
        panel.xaxis.minorticks_off()
        _tick(panel.yaxis)
        panel.tick_params(axis="y", labelsize=7)
        panel.grid(alpha=0.25)
        panel.legend(fontsize=7)
    panels[0].set_ylabel("microseconds a call")
    styles = [
        Line2D([], [], color="grey", marker=marker, linestyle=line, label=label)
        for marker, line, label in (("o", "-", "fastadv"), ("x", ":", "the formula in eager PyTorch"))
    ]
    figure.legend(handles=styles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _tick(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each power of ten, written as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=100))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _has_roofline(measured: Results) -> bool:
    return measured["floor"] is not None and any(row.get("operations") for row in measured["rows"])


PICTURES: dict[str, Callable[[Results], Any]] = {
    **{family.key: partial(speedup, family) for family in FAMILIES},
    "roofline": roofline,
    "scaling": scaling,
}
HAS: dict[str, Callable[[Results], bool]] = {
    **{family.key: lambda measured, family=family: bool(family.rows(measured["rows"])) for family in FAMILIES},
    "roofline": _has_roofline,
    "scaling": lambda measured: bool(curves(measured)),
}
TITLES = {
    **{family.key: f"{family.title}: each opponent's time over fastadv's" for family in FAMILIES},
    "roofline": "Operations a second under the machine's roofs",
    "scaling": "Time against batch, classes, dimension and particles",
}
