"""The pictures of a file of results: bars of speed-up, a roofline, scaling. Each carries the digest of its file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages.scaling import curves
from benchmarks.suite import results

FASTER, SLOWER = "tab:blue", "tab:red"
MARKERS = {"eager": "o", "compiled": "s"}
Results = Mapping[str, Any]


def draw(path: Path) -> list[Path]:
    """Draw the pictures of ``path`` beside it; those for which it has no figures are left out."""
    measured = results.read(path)
    written = []
    for name, picture in PICTURES.items():
        figure = picture(measured)
        if figure is not None:
            target = place(path, name)
            # The software's name would differ from one version of matplotlib to the next.
            figure.savefig(target, dpi=80, metadata={"Description": digest(path), "Software": None})
            written.append(target)
    return written


def links(path: Path) -> list[str]:
    """Markdown for the pictures that ``path`` has figures for, from the folder above it."""
    measured = results.read(path)
    shown = [(name, text) for name, text in TITLES.items() if HAS[name](measured)]
    return [f"![{text}]({path.parent.name}/{place(path, name).name})" for name, text in shown]


def place(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}-{name}.png")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def speedup(measured: Results) -> Any:
    """Each opponent's time over the fused one's, on a logarithmic axis that crosses at 1; lost ones in red."""
    bars = [
        (f"{row['case']}: {name}", ratio)
        for row in measured["rows"]
        for name, ratio in row["ratio_to_fused"].items()
        if name != "replayed"
    ]
    figure, (axes,) = _figure(9, 1 + 0.17 * len(bars))
    places = range(len(bars))
    medians = [ratio["median"] for _, ratio in bars]
    axes.barh(
        places,
        [median - 1 for median in medians],
        left=1,
        color=[SLOWER if median < 1 else FASTER for median in medians],
        xerr=[
            [max(0, ratio["median"] - ratio["low"]) for _, ratio in bars],
            [max(0, ratio["high"] - ratio["median"]) for _, ratio in bars],
        ],
        error_kw={"elinewidth": 0.8},
    )
    axes.set_yticks(places, [label for label, _ in bars], fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_ylim(len(bars), -1)
    axes.set_xlabel("opponent's time / fastadv's (blue: fastadv is faster, red: it is slower)")
    return figure


def roofline(measured: Results) -> Any:
    """Operations a second against operations a byte, below what copies and matrix products of this machine allow."""
    if not _has_roofline(measured):
        return None
    floor, rows = measured["floor"], [row for row in measured["rows"] if row.get("operations")]
    largest = floor["copies"][-1]
    fastest = max(floor["copies"], key=lambda copy: copy["bytes"] / copy["seconds"])
    figure, (axes,) = _figure(9, 6)
    densities = [10 ** (tenth / 10) for tenth in range(-10, 31)]
    for copy, style in ((largest, "-"), (fastest, "--")):
        rate = copy["bytes"] / copy["seconds"]
        roof = [min(rate * density, floor["operations_per_second"]) for density in densities]
        axes.plot(densities, roof, style, color="black", label=f"copy of {copy['bytes']:,} bytes, matrix product")
    families = sorted({row["op"] for row in rows})
    for number, op in enumerate(families):
        of_op = [row for row in rows if row["op"] == op]
        axes.scatter(
            [row["operations"] / row["bytes"] for row in of_op],
            [row["operations"] / row["seconds"]["fused"]["median"] for row in of_op],
            label=op,
            color=f"C{number % 10}",
            marker="osD^v"[number // 10],
            s=18,
        )
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="operations a second")
    axes.legend(fontsize=7, ncols=2)
    return figure


def scaling(measured: Results) -> Any:
    """Time against size, fused and eager, a panel an axis."""
    found = curves(measured)
    if not found:
        return None
    axes_of = sorted({curve.axis for curve in found})
    figure, panels = _figure(4.2 * len(axes_of), 4, len(axes_of))
    for panel, axis in zip(panels, axes_of, strict=True):
        for number, curve in enumerate(curve for curve in found if curve.axis == axis):
            label = f"{curve.family}: ^{curve.exponent:.2f}"
            panel.plot(curve.sizes, curve.seconds, "o-", color=f"C{number}", label=label)
            panel.plot(curve.sizes, curve.eager_seconds, "x:", color=f"C{number}")
        panel.set(xscale="log", yscale="log", xlabel=axis)
        sizes = sorted({size for curve in found if curve.axis == axis for size in curve.sizes})
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=60, fontsize=7)
        panel.minorticks_off()
        panel.legend(fontsize=7)
    panels[0].set_ylabel("seconds a call; dotted: eager")
    return figure


def _has_roofline(measured: Results) -> bool:
    return measured["floor"] is not None and any(row.get("operations") for row in measured["rows"])


PICTURES: dict[str, Callable[[Results], Any]] = {"speedup": speedup, "roofline": roofline, "scaling": scaling}
HAS: dict[str, Callable[[Results], bool]] = {
    "speedup": lambda measured: bool(measured["rows"]),
    "roofline": _has_roofline,
    "scaling": lambda measured: bool(curves(measured)),
}
TITLES = {
    "speedup": "Each opponent's time over fastadv's",
    "roofline": "Operations a second under the machine's roofs",
    "scaling": "Time against batch, classes, dimension and particles",
}
