"""Growth of the cost of a call with its size, and what that means for runs that were not measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.suite.floor import Floor

Row = Mapping[str, Any]
IMAGENET_IMAGES, IMAGENET_PIXELS = 1_281_167, 3 * 224 * 224
STEPS, PARTICLES, LARGE_BATCH = 10, 4, 256


@dataclass(frozen=True)
class Curve:
    """Medians of a family of cases by one of their sizes, ascending, and what they grow with.

    ``exponent`` is the slope of the least-squares line through the upper half of the points in logarithms: below them
    the cost is that of a call. ``overall`` is that through all points.
    """

    family: str
    axis: str
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]
    eager_seconds: tuple[float, ...]

    @property
    def exponent(self) -> float:
        upper = max(3, (len(self.sizes) + 1) // 2)
        return fitted_exponent(self.sizes[-upper:], self.seconds[-upper:])

    @property
    def overall(self) -> float:
        return fitted_exponent(self.sizes, self.seconds)


def fitted_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The k of ``seconds ~ sizes^k``, by least squares in logarithms."""
    slope, _ = statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in seconds])
    return slope


def curves(results: Mapping[str, Any]) -> list[Curve]:
    """Of the families that have three points or more."""
    points: dict[tuple[str, str], list[tuple[int, float, float]]] = {}
    for row in results["rows"]:
        for sweep in row["sweeps"]:
            times = (row["seconds"][name]["median"] for name in ("fused", "eager"))
            points.setdefault((sweep["family"], sweep["axis"]), []).append((sweep["size"], *times))
    return [
        Curve(family, axis, *(tuple(column) for column in zip(*sorted(found), strict=True)))
        for (family, axis), found in points.items()
        if len(found) >= 3
    ]


def projection(results: Mapping[str, Any]) -> list[str]:
    """Estimate of an ImageNet-scale run on this machine, and of what breaks first: a paragraph each, in Markdown.

    Every figure is measured, or follows from measured ones by the formula beside it.
    """
    rows = {row["case"]: row for row in results["rows"]}
    needed = [rows.get(name) for name in ("pgd_step l2 16x3x224x224", "svgd_step 128x4x3072", "svgd_step 16x32x3072")]
    step, four, many = needed
    if results["floor"] is None or step is None or four is None or many is None:
        return ["This file has no sweeps to project from."]
    floor = Floor.from_json(results["floor"])
    by_count = next((curve for curve in curves(results) if curve.axis == "particles"), None)
    return [_time(step), _particles(four, floor), _memory(four), _first_to_break(many, floor, by_count)]


def _time(step: Row) -> str:
    an_image = step["seconds"]["fused"]["median"] / 16
    epoch = an_image * IMAGENET_IMAGES * STEPS
    return (
        f"**Time.** An l2 step takes {an_image * 1e6:,.0f} us an ImageNet image (a sixteenth of `{step['case']}`). "
        f"An epoch of {IMAGENET_IMAGES:,} images with {STEPS} steps each spends {_duration(epoch)} in steps on "
        "this machine. Images have nothing in common in a step: m devices take an m-th of that, and none waits."
    )


def _particles(four: Row, floor: Floor) -> str:
    a_pixel = four["bytes"] / (128 * 3072)
    epoch = a_pixel * IMAGENET_PIXELS * IMAGENET_IMAGES * STEPS
    measured = epoch * four["seconds"]["fused"]["median"] / four["bytes"]
    return (
        f"**Particles.** A step of {PARTICLES} particles moves {a_pixel:.0f} bytes a pixel of an image at least, "
        f"{epoch / 1e12:,.0f} TB in an ImageNet epoch: {_duration(epoch / floor.bandwidth)} at this machine's copy "
        f"bandwidth of {floor.bandwidth / 1e9:.1f} GB/s, {_duration(measured)} at the rate of `{four['case']}`. To "
        f"hold the first under an hour, the devices together must copy at {epoch / 3600 / 1e9:,.0f} GB/s."
    )


def _memory(four: Row) -> str:
    batch = LARGE_BATCH * PARTICLES * IMAGENET_PIXELS * 4
    fused, eager = (four["peak_bytes"][name] / four["bytes"] for name in ("fused", "eager"))
    return (
        f"**Memory.** For a batch of {LARGE_BATCH} ImageNet images, {PARTICLES} particles each, the particles, their "
        f"score and the next particles are {batch / 2**30:.2f} GiB each and with the clean images "
        f"{(3 * batch + batch / PARTICLES) / 2**30:.2f} GiB in all, beside the network's activations for "
        f"{LARGE_BATCH * PARTICLES:,} images. Beyond its inputs `{four['case']}` took {fused:.2f} times its least "
        f"traffic, the eager formula {eager:.2f} times."
    )


def _first_to_break(many: Row, floor: Floor, by_count: Curve | None) -> str:
    count = 32
    pixels = 16 * count * 3072
    operations = many["operations"] / pixels / count
    balance = floor.operations_per_second / floor.bandwidth
    crossover = balance * (many["bytes"] / pixels) / operations
    grows = f" (measured, the time grows as n^{by_count.exponent:.2f})" if by_count else ""
    return (
        "**What breaks first** is the assumption that particles cost what their bytes cost. With n particles an image, "
        f"a pixel of one takes about {operations:.1f} n operations{grows}, but a number of bytes without n. This "
        f"machine does {balance:.0f} operations in the time it moves a byte (matrix product over copy), so from n = "
        f"{crossover:.0f} on the arithmetic is the larger part even at full rate. Next is memory: the network's "
        "activations for n copies of each batch. Neither the traffic of gradients between devices nor the time of an "
        "ImageNet network was measured here."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
