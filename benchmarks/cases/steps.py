"""Cases of the steps on images: projections, starts, ascent steps, interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import fastadv
from benchmarks.cases.inputs import CIFAR, EPS, IMAGENET, STEP, generator, images, normal, size, uniform
from benchmarks.opponents import steps
from benchmarks.suite.case import Case, Entry, Sweep, Work, share_apart
from fastadv.reference.square import bump, sides

Shape = tuple[int, ...]
BATCHES = (1, 4, 16, 64, 128, 256, 1024, 4096)
SIDES = (32, 64, 128, 224)
# Where Square Attack proposes: a query, and its place among the sizes of windows.
QUERY, LEVEL = 300, 3
HOST = "it draws its window on the host, a new one at each call"
LEAST_ROUNDING = 2**-8  # of a bfloat16 pixel, towards the clean image


def entries() -> Iterator[Entry]:
    yield from _pgd_steps()
    for batch in (128, 1024, 4096):
        shape = (batch, *CIFAR)
        chosen, large = batch == 128, batch == 4096
        yield Entry(f"project l2 {size(shape)}", "project", partial(_project, shape), chosen, large=large)
        yield Entry(
            f"random_start linf {size(shape)}", "random_start", partial(_random_start, shape), chosen, large=large
        )
        for norm in ("linf", "l2", "l1"):
            name = f"project_hyperplane {norm} {size(shape)}"
            yield Entry(name, "project_hyperplane", partial(_plane, norm, shape), chosen, large=large)
        for norm, build in (("linf", _square_linf), ("l2", _square_l2)):
            name = f"square_propose {norm} {size(shape)}"
            yield Entry(name, "square_propose", partial(build, shape), chosen, large=large)
        for dtype in (torch.float32, torch.bfloat16):
            precise = chosen and dtype == torch.float32
            name = size(shape, dtype)
            yield Entry(
                f"momentum_step linf {name}", "momentum_step", partial(_momentum, shape, dtype), precise, large=large
            )
            yield Entry(f"bss_step {name}", "bss_step", partial(_bss, shape, dtype), precise, large=large)
            yield Entry(f"mix {name}", "mix", partial(_mix, shape, dtype), precise, large=large)


def _pgd_steps() -> Iterator[Entry]:
    for batch in BATCHES:
        sweep = (Sweep("pgd_step linf, 3x32x32", "batch", batch),)
        yield _pgd("linf", (batch, *CIFAR), chosen=True, compiled=batch in (1, 16, 128, 1024), sweeps=sweep)
    for side in SIDES:
        sweep = (Sweep("pgd_step l2, 16 images of 3 channels", "dimension", 3 * side * side),)
        yield _pgd("l2", (16, 3, side, side), chosen=True, compiled=side == 224, sweeps=sweep)
    for batch in (128, 1024, 4096):
        for norm in ("l2", "l1"):
            yield _pgd(norm, (batch, *CIFAR), chosen=batch == 128, large=batch == 4096)
    for batch in (16, 64):
        yield _pgd("linf", (batch, *IMAGENET), chosen=batch == 16)
    yield _pgd("l1", (16, *IMAGENET))
    for batch in (128, 1024):
        for norm in ("linf", "l2"):
            yield _pgd(norm, (batch, *CIFAR), torch.bfloat16, chosen=batch == 128)


def _pgd(
    norm: str,
    shape: Shape,
    dtype: torch.dtype = torch.float32,
    *,
    chosen: bool = False,
    compiled: bool = True,
    sweeps: tuple[Sweep, ...] = (),
    large: bool = False,
) -> Entry:
    build = {"linf": _pgd_linf, "l2": _pgd_l2, "l1": _pgd_l1}[norm]
    name = f"pgd_step {norm}{' exact' if norm == 'l1' else ''} {size(shape, dtype)}"
    return Entry(name, "pgd_step", partial(build, shape, dtype), chosen, compiled, sweeps, large)


def _pgd_linf(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    x, grad, x0 = images(generator(device), shape, dtype)
    half = dtype != torch.float32
    return Case(
        fused=lambda: fastadv.pgd_step(x, grad, x0, eps=EPS, step_size=STEP, mode="sequential"),
        eager=steps.pgd_step_linf,
        arguments=(x, grad, x0, EPS, STEP),
        work=_work(
            x, grad, x0, each=9, what="sign, multiply, add, subtract, two comparisons, add, two comparisons of a pixel"
        ),
        atol=LEAST_ROUNDING if half else 0.0,
        # The formula rounds to bfloat16 after each of its operations.
        opponents_atol=4 * LEAST_ROUNDING if half else 0.0,
    )


def _pgd_l2(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    x, grad, x0 = images(generator(device), shape, dtype)
    half = dtype != torch.float32
    return Case(
        fused=lambda: fastadv.pgd_step(x, grad, x0, eps=0.5, step_size=0.125, norm="l2", mode="sequential"),
        eager=steps.pgd_step_l2,
        arguments=(x, grad, x0, 0.5, 0.125),
        work=_work(x, grad, x0, each=11, what="two squared norms, two scalings, step, difference, box of a pixel"),
        atol=LEAST_ROUNDING if half else 1e-6,
        opponents_atol=4 * LEAST_ROUNDING if half else 1e-6,
    )


def _pgd_l1(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    source = generator(device)
    x0 = images(source, shape)[0]
    # Where attacks are after a few steps: on the surface of the ball.
    x = fastadv.project(x0 + 0.05 * normal(source, *shape), x0, eps=12.0, norm="l1")
    grad = normal(source, *shape)
    pixels = x0[0].numel()
    largest = -(-pixels // 20)
    return Case(
        fused=lambda: fastadv.pgd_step(x, grad, x0, eps=12.0, step_size=2.4, norm="l1"),
        eager=steps.pgd_step_l1,
        arguments=(x, grad, x0, 12.0, 2.4, largest),
        work=_work(x, grad, x0, each=12, what="selection, step, distance, threshold and box, a pass each, of a pixel"),
        atol=1e-5,
    )


def _project(shape: Shape, device: torch.device) -> Case:
    x, _, x0 = images(generator(device), shape)
    return Case(
        fused=lambda: fastadv.project(x, x0, eps=0.5, norm="l2", mode="sequential"),
        eager=steps.project_l2,
        arguments=(x, x0, 0.5),
        work=Work.of({"x": x, "x0": x0, "result": x}, 7, x.numel(), "squared norm, scaling, box of a pixel"),
        atol=1e-6,
        opponents={"torch": lambda: lambda: steps.project_l2_renorm(x, x0, 0.5)},
    )


def _plane(norm: str, shape: Shape, device: torch.device) -> Case:
    x, normal, _ = images(generator(device), shape)
    # Planes that lie at a tenth of the way to the far corner.
    room = torch.where(normal > 0, x, 1 - x)
    offset = ((normal * x) - 0.1 * normal.abs() * room).flatten(1).sum(1)
    return Case(
        fused=lambda: fastadv.project_hyperplane(x, normal, offset, norm=norm),
        eager=steps.project_hyperplane,
        arguments=(x, normal, offset, norm),
        work=Work.of(
            {"x": x, "normal": normal, "result": x}, 10, x.numel(), "gap, room, a pass of the search, and the move"
        ),
        atol=1e-4 if norm == "l1" else 1e-6,
    )


def _square_linf(shape: Shape, device: torch.device) -> Case:
    source = generator(device)
    x0 = images(source, shape)[0].clamp(EPS, 1 - EPS)
    x = x0 + EPS * (1 - 2 * (uniform(source, shape[0], shape[1], 1, shape[3]) < 0.5).float())
    side = sides(*shape[2:], "linf")[LEVEL]

    def unlike_a_window(result: object, expected: object) -> float:
        """Distance of a pixel from the surface of the ball, in eps, and of the share of changed ones from half."""
        assert isinstance(result, Tensor)
        off = ((result - x0).abs() / EPS - 1).abs().max()
        changed = ((result - x).abs() > EPS).float().mean() * shape[2] * shape[3] / side**2
        return max(float(off), abs(2 * float(changed) - 1))

    query = torch.full([shape[0]], QUERY, device=device)
    return Case(
        fused=lambda: fastadv.square_propose(x, x0, query, eps=EPS, seed=1),
        eager=steps.square_propose_linf,
        arguments=(x, x0, EPS, side),
        work=Work.of(
            {"x": x, "result": x, "x0 in the window": x0[:, :, :side, :side]},
            5,
            x0[:, :, :side, :side].numel(),
            "a sum and four comparisons of a pixel in the window",
        ),
        # Of a window for each image or for the batch, the share of stripes that change is binomial.
        atol=0.1,
        not_compiled=HOST,
        difference=unlike_a_window,
        agreement="on the surface of the ball, half of a window changed",
    )


def _square_l2(shape: Shape, device: torch.device) -> Case:
    source = generator(device)
    x0 = 0.35 + 0.3 * uniform(source, *shape)
    x = fastadv.project(x0 + 0.05 * normal(source, *shape), x0, eps=0.5, norm="l2")
    tile = bump(sides(*shape[2:], "l2")[LEVEL], "l2").float().to(device)

    def unlike_the_radius(result: object, expected: object) -> float:
        """Relative difference of a distance from eps."""
        assert isinstance(result, Tensor)
        return float(((result - x0).flatten(1).norm(dim=1) / 0.5 - 1).abs().max())

    query = torch.full([shape[0]], QUERY, device=device)
    return Case(
        fused=lambda: fastadv.square_propose(x, x0, query, eps=0.5, norm="l2", seed=1),
        eager=steps.square_propose_l2,
        arguments=(x, x0, 0.5, tile),
        work=Work.of({"x": x, "x0": x0, "result": x}, 3, x.numel(), "the squared norm of the perturbation"),
        atol=1e-4,
        not_compiled=HOST,
        difference=unlike_the_radius,
        agreement="all of the radius spent",
    )


def _random_start(shape: Shape, device: torch.device) -> Case:
    x0 = images(generator(device), shape)[0].clamp(EPS, 1 - EPS)

    def unlike_uniform(result: object, expected: object) -> float:
        """Distance of the noise, in units of its range, from uniform: its extremes, mean and variance."""
        assert isinstance(result, Tensor)
        noise = (result - x0).double() / EPS
        beyond = float(noise.abs().max()) - 1
        return max(beyond, abs(float(noise.mean())), abs(3 * float(noise.var()) - 1))

    return Case(
        fused=lambda: fastadv.random_start(x0, eps=EPS, seed=1),
        eager=steps.random_start_linf,
        arguments=(x0, EPS),
        work=Work.of(
            {"x0": x0, "result": x0}, 30, x0.numel(), "a quarter of ten Philox rounds, scaling, box of a pixel"
        ),
        # Four standard errors of the variance of 128 images' noise; the extremes are rounded with the pixel.
        atol=0.01,
        difference=unlike_uniform,
        agreement="in the ball, mean and variance of the noise",
    )


def _momentum(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    source = generator(device)
    x, grad, x0 = images(source, shape, dtype)
    momentum = normal(source, *shape).to(dtype)
    return Case(
        fused=lambda: fastadv.momentum_step(x, grad, momentum, x0, eps=EPS, step_size=STEP),
        eager=steps.momentum_step,
        arguments=(x, grad, momentum, x0, EPS, STEP, 1.0),
        work=Work.of(
            {"x": x, "grad": grad, "momentum": momentum, "x0": x0, "result": x, "next momentum": momentum},
            13,
            x.numel(),
            "mean magnitude, division, decay, add, and the 9 of a linf step of a pixel",
        ),
        # A sign may flip where gradient and momentum cancel to rounding.
        atol=1e-4 if dtype == torch.float32 else 1e-2,
        opponents_atol=None if dtype == torch.float32 else 0.1,
        difference=partial(share_apart, threshold=1e-5 if dtype == torch.float32 else 2**-6),
        agreement="share of elements that differ",
    )


def _bss(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    source = generator(device)
    x, grad, _ = images(source, shape, dtype)
    gap = 3 * uniform(source, shape[0])
    active = uniform(source, shape[0]) < 0.8
    return Case(
        fused=lambda: fastadv.bss_step(x, grad, gap, active),
        eager=steps.bss_step,
        arguments=(x, grad, gap, active, 0.3),
        work=Work.of({"x": x, "grad": grad, "result": x}, 6, x.numel(), "squared norm, scaling, add, box of a pixel"),
        atol=1e-6 if dtype == torch.float32 else LEAST_ROUNDING,
    )


def _mix(shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    source = generator(device)
    x = images(source, shape, dtype)[0]
    permutation = torch.randperm(shape[0], generator=source, device=device)
    return Case(
        fused=lambda: fastadv.mix(x, 0.3, permutation),
        eager=steps.mix,
        arguments=(x, 0.3, permutation),
        work=Work.of({"x": x, "result": x}, 3, x.numel(), "two multiplications and an addition of a pixel"),
        atol=0.0 if dtype == torch.float32 else LEAST_ROUNDING,
        opponents_atol=1e-6 if dtype == torch.float32 else 4 * LEAST_ROUNDING,
        opponents={"torch": lambda: lambda: steps.mix_lerp(x, 0.3, permutation)},
    )


def _work(x: Tensor, grad: Tensor, x0: Tensor, *, each: float, what: str) -> Work:
    return Work.of({"x": x, "grad": grad, "x0": x0, "result": x}, each, x.numel(), what)
