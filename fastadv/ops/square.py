"""Random windows of a perturbation, what Square Attack proposes: square_propose."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.ball import named, rounded
from fastadv.ops.dispatch import define, like
from fastadv.ops.layout import aligned
from fastadv.reference import square as reference
from fastadv.reference.square import LEVELS, bump, sides

__all__ = ["bump", "square_propose"]


def square_propose(
    x: Tensor,
    x0: Tensor,
    query: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int | Tensor = 0,
    sample_ids: Tensor | None = None,
) -> Tensor:
    """Change one window of each perturbation ``x - x0`` at random, as Square Attack proposes at query ``query``.

    The window is a square of s pixels a side at a random place, ``s = max(round(sqrt(p H W)), 1)`` with p = 0.8 up to
    query 10, then 0.4 to 50, 0.2 to 200, 0.1 to 500, and so on to 1000, 2000, 4000, 6000 and 8000; for l2 and l1 at
    least 3 and odd, where the image has room. As published it never touches the last row or column.

    linf: ``clamp(clamp(x + 2 eps sigma_c, x0 - eps, x0 + eps), low, high)`` in the window, sigma_c = +-1 a channel. l2
    and l1, a channel at a time: the window becomes ``unit(sigma_c bump + unit(old window))`` times what it and a second
    window of the same size held, plus an equal share of what the whole perturbation lacks of eps; the second window is
    put back to x0. For l2 the box is held in the windows and the norm is eps up to rounding; for l1 it is more, and
    :func:`fastadv.project` has to follow, as it does in the published attack. Only the windows change.

    The draws are Philox4x32-10 with key = seed and counter = (block, sample id), 2^16 blocks a query: the same on every
    backend and in every memory layout, whatever batch a sample lands in.

    The first call with an image size, norm, precision and device makes tables on the device from numbers of the host,
    which no CUDA graph can record: it must precede a capture. The tables are kept for good, as graphs point to them.

    Args:
        x: images [N, C, H, W], float64, float32, bfloat16 or float16, inside ball and box.
        x0: clean images, of the shape and device of x.
        query: number of the query of each sample, int64 [N], from 0 on.
        eps: radius in the units of x, a float or [N]; not negative.
        norm: "linf", "l2" or "l1".
        bounds: (low, high), or None for no box.
        seed: an int, or an int64 tensor without dimensions on the device of x.
        sample_ids: int64 [N], the samples' identities; None is 0 ... N - 1.

    Returns:
        The proposals in x's dtype and layout, detached.

    Raises:
        TypeError: x or x0 are not floating-point tensors, query, seed or sample_ids are not int64.
        ValueError: a shape or device is wrong, a query on the CPU or eps is negative, low > high, unknown norm.

    Source: Andriushchenko, Croce, Flammarion, Hein, "Square Attack: a query-efficient black-box adversarial attack via
    random search", ECCV 2020; for l1 Croce, Hein, "Mind the box", ICML 2021.
    """
    dense = checks.samples_alike(("x", "x0"), x, x0)
    if x.dim() != 4:
        raise ValueError(f"x must have shape [N, C, H, W], got {list(x.shape)}")
    tensors = (x, x0) if dense else aligned(x, x0)
    radius, radii = checks.radius("eps", eps, tensors[0])
    checks.int64("query", query, [x.shape[0]], x)
    if query.device.type == "cpu" and not torch.compiler.is_compiling() and bool((query < 0).any()):
        raise ValueError(f"query must not be negative, got {int(query.min())}")
    number, tensor = checks.seed(seed, x)
    numbers = (checks.choice("norm", norm, checks.NORMS), *checks.box(bounds), number)
    if sample_ids is not None:
        checks.int64("sample_ids", sample_ids, [x.shape[0]], x)
        sample_ids = sample_ids.contiguous()
    query = query.contiguous()
    # A compiler's tensors hold nothing, nor do those that a mode such as FakeTensorMode makes: they must not be kept
    # for later calls, nor mixed with what is kept.
    traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    tables = _tables.__wrapped__ if traced else _tables
    limits, each_side, bumps = tables(x.shape[2], x.shape[3], norm, tensors[0].dtype is torch.float64, x.device)
    level = torch.bucketize(query, limits)
    optional = _square_propose.tail(numbers, bumps, radii, tensor, sample_ids)
    return rounded(_square_propose.on(x)(*tensors, query, level, each_side, radius, *optional), x)


@cache
def _tables(
    height: int, width: int, norm: str, double: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the queries at which windows shrink, the sides [L] and, for l2 and l1, the bumps [L, S, S]."""
    every = sides(height, width, norm)
    limits, each_side = torch.tensor(LEVELS, device=device), torch.tensor(every, device=device)
    if norm == "linf":
        return limits, each_side, None
    bumps = torch.zeros(len(every), max(every), max(every), dtype=torch.float64)
    for table, side in zip(bumps, every, strict=True):
        table[:side, :side] = bump(side, norm)
    return limits, each_side, bumps.to(torch.float64 if double else torch.float32).to(device)


def _square_propose_reference(x, x0, query, level, sides, eps, norm, low, high, seed, bumps, eps_n, seed_t, sample_ids):
    keywords = named(eps, norm, low, high, eps_n)
    seed = seed if seed_t is None else seed_t
    found = reference.propose(x, x0, query, level, sides, bumps, **keywords, seed=seed, sample_ids=sample_ids)
    return like(x, found)


_square_propose = define(
    "square_propose",
    family="square",
    fake=lambda x, *_: torch.empty_like(x),
    reference=_square_propose_reference,
)
