"""How the cost of a call grows with its size, and what that means for runs that were not measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.floor import Floor

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


def projection(results: Mapping[str, Any]) -> Iterator[str]:
    """What an ImageNet-scale run would take of this machine, and what breaks first: a paragraph each, in Markdown.

    Every figure is measured, or follows from measured ones by the formula beside it.
    """
    rows = {row["case"]: row for row in results["rows"]}
    step, small, many = (
        rows.get(name) for name in ("pgd_step l2 16x3x224x224", "svgd_step 128x4x3072", "svgd_step 16x32x3072")
    )
    if results["floor"] is None or step is None or small is None or many is None:
        yield "This file has no sweeps to project from."
        return
    floor = Floor.from_json(results["floor"])
    an_image = step["seconds"]["fused"]["median"] / 16
    passes = IMAGENET_IMAGES * STEPS
    yield (
        f"**Time.** An l2 step takes {an_image * 1e6:,.0f} us an ImageNet image here (a sixteenth of `{step['case']}`). An "
        f"epoch of {IMAGENET_IMAGES:,} images with {STEPS} steps each spends {_duration(an_image * passes)} in steps on this "
        f"machine. Steps of different images have nothing in common, so m devices take an m-th of that; no step waits for "
        f"another device."
    )
    moved = small["bytes"] / (128 * 3072)
    particle_epoch = moved * IMAGENET_PIXELS * passes
    measured = small["seconds"]["fused"]["median"] / small["bytes"]
    yield (
        f"**Particles.** A step of {PARTICLES} particles moves {moved:.0f} bytes a pixel at least, "
        f"{particle_epoch / 1e12:,.0f} TB an ImageNet epoch: {_duration(particle_epoch / floor.bandwidth)} at this machine's "
        f"copy bandwidth of {floor.bandwidth / 1e9:.1f} GB/s, {_duration(particle_epoch * measured)} at the rate of "
        f"`{small['case']}`. To hold that under an hour, the devices together must copy at "
        f"{particle_epoch / 3600 / 1e9:,.0f} GB/s."
    )
    batch = LARGE_BATCH * PARTICLES * IMAGENET_PIXELS * 4
    yield (
        f"**Memory.** {PARTICLES} particles, their score, the next particles and the clean images of a batch of "
        f"{LARGE_BATCH} ImageNet images are {batch / 2**30:.2f} GiB for each of the first three and "
        f"{(3 * batch + batch / PARTICLES) / 2**30:.2f} GiB in all, beside the network's activations of "
        f"{LARGE_BATCH * PARTICLES:,} images. `{small['case']}` took {small['peak_bytes']['fused'] / small['bytes']:.2f} "
        f"times its least traffic beyond its inputs, the eager formula "
        f"{small['peak_bytes']['eager'] / small['bytes']:.2f} times."
    )
    # n particles: operations grow with n a pixel, bytes do not.
    per_particle = many["operations"] / (16 * 32 * 3072 * 32)
    balance = floor.operations_per_second / floor.bandwidth
    crossover = balance * (many["bytes"] / (16 * 32 * 3072)) / per_particle
    by_count = next((c for c in curves(results) if c.axis == "particles"), None)
    grows = f"; measured, the time grows as n^{by_count.exponent:.2f}" if by_count else ""
    yield (
        f"**What breaks first** is the assumption that particles cost what their bytes cost. An image's n particles take "
        f"about {per_particle:.1f} n operations a pixel of a particle and a number of bytes that does not depend on n{grows}. "
        f"This machine does {balance:.0f} operations in the time it moves a byte (matrix product over copy), so from "
        f"n = {crossover:.0f} on the arithmetic, n^2 an image, is the larger part even at its full rate. Next is memory: "
        f"activations of n copies of each batch in the network. Neither the traffic of gradients between devices nor the "
        f"time of an ImageNet network was measured here."
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
