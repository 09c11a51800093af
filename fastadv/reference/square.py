"""Random windows of a perturbation: what Square Attack proposes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.reference._common import accumulate, per_sample
from fastadv.reference.philox import philox

# The share of the image that a window covers halves after each of these queries.
LEVELS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# A query has 2^16 counter blocks: the first places its windows, each of the next has the signs of 128 channels.
QUERY_SHIFT = 16
CHANNELS_A_BLOCK = 128


def sides(height: int, width: int, norm: str, share: float = 0.8) -> list[int]:
    """The side of the window at each level; odd and at least 3, where the image has room, for l2 and l1."""
    found = []
    for level in range(len(LEVELS) + 1):
        side = max(round(math.sqrt(share / 2**level * height * width)), 1 if norm == "linf" else 3)
        found.append(min(side + (norm != "linf" and side % 2 == 0), height, width))
    return found


def bump(side: int, norm: str) -> Tensor:
    """A pyramid in the upper half of a window [side, side] and minus one in the lower half, of norm 1, in float64."""
    upper = side // 2
    both = torch.cat((_pyramid(upper, side, norm), -_pyramid(side - upper, side, norm)))
    return both / _length(both, norm, (0, 1))


def _pyramid(height: int, width: int, norm: str) -> Tensor:
    """``sum_r (r + 1)^-2`` (l1: -4) over the squares of side 2 r + 1 around the middle, of norm 1."""
    power = {"l2": -2.0, "l1": -4.0}[norm]
    rows = (torch.arange(height) - height // 2).abs()[:, None]
    columns = (torch.arange(width) - width // 2).abs()
    layers = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64).pow(power)
    pyramid = layers.flip(0).cumsum(0).flip(0)[torch.maximum(rows, columns)]
    return pyramid / _length(pyramid, norm, (0, 1))


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
    """See :func:`fastadv.square_propose`."""
    level = torch.bucketize(query, torch.tensor(LEVELS, device=x.device))
    every = sides(x.shape[2], x.shape[3], norm)
    bumps = torch.zeros(len(every), max(every), max(every), dtype=torch.float64)
    if norm != "linf":
        for table, side in zip(bumps, every, strict=True):
            table[:side, :side] = bump(side, norm)
    keywords = {"eps": eps, "norm": norm, "bounds": bounds, "seed": seed, "sample_ids": sample_ids}
    each_side = torch.tensor(every, device=x.device)
    return propose(x, x0, query, level, each_side, bumps.to(x.device), **keywords)  # type: ignore[arg-type]


def propose(
    x: Tensor,
    x0: Tensor,
    query: Tensor,
    level: Tensor,
    sides: Tensor,
    bumps: Tensor | None,
    *,
    eps: float | Tensor,
    norm: str,
    bounds: tuple[float, float] | None,
    seed: int | Tensor,
    sample_ids: Tensor | None,
) -> Tensor:
    """Propose, with the sides [L] and bumps [L, S, S] of which ``level`` [N] says each sample's own."""
    low, high = bounds or (-math.inf, math.inf)
    point, centre = accumulate(x), accumulate(x0)
    samples, channels, height, width = x.shape
    if x.numel() == 0:
        return x.clone()
    if not isinstance(seed, Tensor):
        seed = torch.tensor(seed, dtype=torch.int64, device=x.device)
    if sample_ids is None:
        sample_ids = torch.arange(samples, device=x.device)
    blocks = torch.arange(1 + -(-channels // CHANNELS_A_BLOCK), device=x.device)
    words = philox(seed, (query[:, None] << QUERY_SHIFT) + blocks, sample_ids)
    places, colours = words[:, 0], words[:, 1:].flatten(1)
    channel = torch.arange(channels, device=x.device)
    sign = 1 - 2 * ((colours[:, channel // 32] >> channel % 32) & 1).to(point.dtype)[..., None, None]
    radius = per_sample(eps, point)
    side = sides[level]
    row, column, inside = _window(places[:, 0], places[:, 1], side, height, width)
    if norm == "linf":
        moved = torch.minimum(torch.maximum(point + 2 * radius * sign, centre - radius), centre + radius)
        return torch.where(inside, moved.clamp(low, high), point).to(x.dtype)
    assert bumps is not None
    bumps = bumps.to(point.dtype)
    turned = (places[:, 0] & 1 == 1).view(-1, 1, 1, 1)
    down, across = (torch.where(inside, place, 0) for place in (row, column))
    shape = bumps[level.view(-1, 1, 1, 1), torch.where(turned, across, down), torch.where(turned, down, across)]
    delta = point - centre
    old = torch.where(inside, delta, 0)
    patch = torch.where(inside, sign * shape, 0) + old / (_length(old, norm) + 1e-12)
    other = _window(places[:, 2], places[:, 3], side, height, width)[2]
    spent = _length(torch.where(inside | other, delta, 0), norm)
    whole = _length(delta, norm, (1, 2, 3))
    if norm == "l2":
        size = ((radius * radius - whole.square()) / channels + spent.square()).clamp(min=0).sqrt()
    else:
        # More than there is room for: a projection takes it from all over the image.
        size = ((radius - whole).clamp(min=0) / channels + spent) * channels
    patch = patch / (_length(patch, norm) + 1e-12) * size
    box = (low, high) if norm == "l2" else (-math.inf, math.inf)
    moved = torch.where(inside, (centre + patch).clamp(*box), torch.where(other, centre, point))
    return moved.to(x.dtype)


def _window(down: Tensor, across: Tensor, side: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column of each pixel in the window of its sample, which two words [N] place, and whether it lies in it.

    As published, no window touches the last row or column but the one that fills the image.
    """
    rows = torch.arange(height, device=side.device).view(1, 1, -1, 1)
    columns = torch.arange(width, device=side.device).view(1, 1, 1, -1)
    row = rows - (down * (height - side) >> 32).view(-1, 1, 1, 1)
    column = columns - (across * (width - side) >> 32).view(-1, 1, 1, 1)
    side = side.view(-1, 1, 1, 1)
    return row, column, (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _length(x: Tensor, norm: str, dims: tuple[int, ...] = (2, 3)) -> Tensor:
    """The l2 or l1 norm of ``x`` over ``dims``, which are kept."""
    return x.square().sum(dims, keepdim=True).sqrt() if norm == "l2" else x.abs().sum(dims, keepdim=True)
