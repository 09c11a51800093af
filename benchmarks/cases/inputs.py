"""Random inputs, drawn with a fixed seed: the same for a case whatever else is measured."""

from __future__ import annotations

import torch
from torch import Tensor

EPS, STEP = 8 / 255, 2 / 255
CIFAR, IMAGENET = (3, 32, 32), (3, 224, 224)


def generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def images(
    source: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Iterates in the linf ball, a gradient, and clean images."""
    x0 = uniform(source, *shape)
    x = (x0 + EPS * (2 * uniform(source, *shape) - 1)).clamp(0, 1)
    return x.to(dtype), normal(source, *shape).to(dtype), x0.to(dtype)


def uniform(source: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=source, device=source.device)


def normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=source, device=source.device)


def size(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> str:
    """Part of a case's name: the size, with the precision where it is not float32."""
    suffix = "" if dtype == torch.float32 else f" {str(dtype).removeprefix('torch.')}"
    return "x".join(map(str, shape)) + suffix
