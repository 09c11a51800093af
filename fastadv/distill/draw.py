"""Random numbers of the methods themselves: from a seed, on the device, and without the global generators."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.ops.ball import random_start

# Attacks number their samples from zero: with the same seed these numbers share nothing with their noise.
_STREAM = 1 << 62


def uniform(ids: Tensor, columns: int, *, seed: int | Tensor) -> Tensor:
    """Independent numbers in [0, 1], one row for each of ``ids``: [N, columns] float32.

    ids: int64 [N], not negative and below 2^62; the same id and seed give the same row in any batch.
    """
    half = torch.full((len(ids), columns), 0.5, device=ids.device)
    return random_start(half, eps=0.5, bounds=None, seed=seed, sample_ids=ids + _STREAM)


def normal(ids: Tensor, columns: int, *, seed: int | Tensor) -> Tensor:
    """Standard normal numbers, as :func:`uniform`."""
    return math.sqrt(2) * torch.erfinv(_symmetric(ids, columns, seed))


def symmetric_beta(ids: Tensor, alpha: float, *, seed: int | Tensor) -> Tensor:
    """A number from Beta(alpha, alpha), alpha > 0, for each of ``ids``: [N], as :func:`uniform`.

    With u and v uniform in (0, 1), ``w = sqrt(u^(-1 / alpha) - 1) cos(2 pi v)`` is a Student t deviate of 2 alpha
    degrees of freedom over ``sqrt(2 alpha)``, and ``(1 + w / sqrt(1 + w^2)) / 2`` the deviate wanted.

    Source: Devroye, "Random variate generation in one line of code", WSC 1996.
    """
    radius, angle = _symmetric(ids, 2, seed).unbind(1)
    exponent = radius.abs().log() / alpha
    power, rest = exponent.exp(), -exponent.expm1()
    cosine = (math.pi * angle).cos()
    # w / sqrt(1 + w^2) with both sides times u^(1 / (2 alpha)), which w may overflow without.
    ratio = rest.sqrt() * cosine / (power + rest * cosine.square()).sqrt()
    return ((1 + ratio) / 2).clamp(0, 1)


def _symmetric(ids: Tensor, columns: int, seed: int | Tensor) -> Tensor:
    """Uniform in (-1, 1) and never 0: halfway between multiples of 2^-23, as those of :func:`uniform` are of 2^-24."""
    return 2 * uniform(ids, columns, seed=seed) - 1 + 2.0**-24
