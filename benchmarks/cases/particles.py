"""Cases of the particles' step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import fastadv
from benchmarks.cases.inputs import CIFAR, EPS, IMAGENET, STEP, generator, images, normal, size, uniform
from benchmarks.opponents import steps
from benchmarks.suite.case import Case, Entry, Sweep, Work, share_apart

COUNTS = (2, 4, 8, 16, 32)


def entries() -> Iterator[Entry]:
    for count in COUNTS:
        yield _entry(16, count, sweeps=(Sweep("svgd_step, 16 images of 3x32x32", "particles", count),))
    for batch in (32, 64, 128):
        yield _entry(
            batch, 4, compiled=batch == 128, sweeps=(Sweep("svgd_step, 4 particles of 3x32x32", "batch", batch),)
        )
    yield _entry(1024, 4, chosen=False, compiled=True, large=True)
    yield _entry(128, 4, torch.bfloat16, chosen=False, compiled=True)
    yield _entry(8, 4, shape=IMAGENET, chosen=False, compiled=True)


def _entry(
    batch: int,
    count: int,
    dtype: torch.dtype = torch.float32,
    *,
    shape: tuple[int, ...] = CIFAR,
    chosen: bool = True,
    compiled: bool = False,
    sweeps: tuple[Sweep, ...] = (),
    large: bool = False,
) -> Entry:
    pixels = torch.Size(shape).numel()
    build = partial(_svgd, batch, count, shape, dtype)
    return Entry(
        f"svgd_step {size((batch, count, pixels), dtype)}", "svgd_step", build, chosen, compiled, sweeps, large
    )


def _svgd(batch: int, count: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Case:
    source = generator(device)
    x0 = images(source, (batch, *shape), dtype)[0]
    noise = 2 * uniform(source, batch, count, *shape) - 1
    particles = (x0.unsqueeze(1) + EPS * noise).clamp(0, 1).to(dtype)
    score = normal(source, batch, count, *shape).to(dtype)
    return Case(
        fused=lambda: fastadv.svgd_step(particles, score, x0, eps=EPS, step_size=STEP),
        eager=steps.svgd_step,
        arguments=(particles, score, x0, EPS, STEP),
        work=Work.of(
            {"particles": particles, "score": score, "result": particles, "x0": x0},
            5 * count + 9,
            particles.numel(),
            "distances to half of the n particles, two products with the n x n kernel, a linf step of a pixel",
        ),
        # A sign may flip where attraction and repulsion cancel to rounding.
        atol=1e-4 if dtype == torch.float32 else 1e-2,
        opponents_atol=None if dtype == torch.float32 else 0.1,
        difference=partial(share_apart, threshold=1e-5 if dtype == torch.float32 else 2**-6),
        agreement="share of elements that differ",
    )
