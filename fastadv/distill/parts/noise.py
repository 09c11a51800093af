"""Random numbers of a method: from a seed alone, on the device, and without the global generators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.numerics import accumulate
from fastadv.ops.ball import random_start

# A stream that shares nothing with the particles of attacks, which take the first streams of their seed.
APART = 1 << 30


def uniform(rows: int | Tensor, columns: int, *, seed: int | Tensor, stream: int, like: Tensor) -> Tensor:
    """Draw [rows, columns] uniform in (-1, 1), never 0, on the device of ``like``; float64 where it is, else float32.

    rows: how many, or an identity below 2^32 for each, int64, which with the seed and the stream decides its numbers.

    The noise of :func:`fastadv.random_start`: the same on every backend. Streams of one seed are independent.
    """
    ids = torch.arange(rows, device=like.device) if isinstance(rows, int) else rows
    centre = accumulate(like.new_zeros(len(ids), columns))
    # random_start draws multiples of 2^-23 in [-1, 1); halfway between two of them lies neither -1 nor 0.
    return random_start(centre, eps=1.0, bounds=None, seed=seed, sample_ids=ids + (stream << 32)) + 2.0**-24


def normal(rows: int, columns: int, *, seed: int | Tensor, stream: int, like: Tensor) -> Tensor:
    """Draw [rows, columns] standard normal, as :func:`uniform`."""
    return math.sqrt(2) * torch.erfinv(uniform(rows, columns, seed=seed, stream=stream, like=like))


def symmetric_beta(rows: int, alpha: float, *, seed: int | Tensor, stream: int, like: Tensor) -> Tensor:
    """Draw [rows] from Beta(alpha, alpha), alpha > 0, as :func:`uniform`: uniform in (0, 1) for alpha 1.

    With u and v uniform in (0, 1), ``w = sqrt(u^(-1 / alpha) - 1) cos(2 pi v)`` is a Student t deviate of 2 alpha
    degrees of freedom over ``sqrt(2 alpha)``, and ``(1 + w / sqrt(1 + w^2)) / 2`` the deviate wanted.

    Source: Devroye, "Random variate generation in one line of code", WSC 1996.
    """
    radius, angle = uniform(rows, 2, seed=seed, stream=stream, like=like).unbind(1)
    power = (radius.abs().log() / alpha).exp()
    rest = -(radius.abs().log() / alpha).expm1()
    cosine = (math.pi * angle).cos()
    # w / sqrt(1 + w^2) with both sides times u^(1 / (2 alpha)), which w may overflow without.
    ratio = rest.sqrt() * cosine / (power + rest * cosine.square()).sqrt()
    # Rounding takes it past its bounds of -1 and 1.
    return ((1 + ratio) / 2).clamp(0, 1)
