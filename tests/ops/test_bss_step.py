"""The step towards the decision boundary: how far it leads, who takes it, and gradients that lead nowhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv
from tests.ops.cases import Draw

NAN, INF = math.nan, math.inf


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, grad, gap, active."""
    draw = Draw(dtype, seed=8)
    gap = draw.positive(4, 3.0)
    return draw.pixels((4, 30)), draw.normal((4, 30)), gap, torch.tensor([True, False, True, True])


def test_the_formula(backend):
    x, grad, gap, active = inputs(torch.float64)
    moved = fastadv.bss_step(x, grad, gap, active, step_size=0.4, bounds=(0.2, 0.9))
    for n in range(4):
        expected = (x[n] + 0.4 * (gap[n] + 1e-4) * grad[n] / grad[n].norm()).clamp(0.2, 0.9)
        torch.testing.assert_close(moved[n], expected if active[n] else x[n])


def test_a_full_step_ends_just_beyond_the_boundary_of_a_linear_model(backend):
    x, weight, _, _ = inputs(torch.float64)
    weight = weight / weight.norm(dim=1, keepdim=True)
    gap = -(x * weight).sum(1) + 3
    every = torch.ones(4, dtype=torch.bool)
    moved = fastadv.bss_step(x, weight, gap, every, step_size=1.0, bounds=None)
    torch.testing.assert_close(3 - (moved * weight).sum(1), torch.full([4], -1e-4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_inactive_samples_return_as_they_came(dtype, backend):
    x, grad, gap, active = inputs(dtype)
    x[1] += 7
    x[1, 3] = INF
    gap[1] = NAN
    moved = fastadv.bss_step(x, grad, gap, active)
    assert torch.equal(moved[1], x[1])
    assert ((moved[[0, 2, 3]] >= 0) & (moved[[0, 2, 3]] <= 1)).all()
    nobody = torch.zeros(4, dtype=torch.bool)
    assert torch.equal(fastadv.bss_step(x, grad, gap, nobody), x)


@pytest.mark.parametrize("value", [0.0, NAN, INF, -INF])
def test_a_gradient_that_points_nowhere_moves_nothing(value, backend):
    x, grad, gap, active = inputs()
    if value == 0:
        grad[2] = 0
    else:
        grad[2, 5] = value
    moved = fastadv.bss_step(x, grad, gap, active)
    assert torch.equal(moved[2], x[2])
    assert (moved[[0, 3]] != x[[0, 3]]).any(1).all()


def test_an_undefined_gap_shows(backend):
    x, grad, gap, active = inputs()
    gap[2] = NAN
    assert fastadv.bss_step(x, grad, gap, active).isnan().any(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e20, 1e37])
def test_the_length_does_not_depend_on_that_of_the_gradient(scale, backend):
    x, grad, gap, active = inputs()
    x = torch.zeros_like(x)
    moved = fastadv.bss_step(x, scale * grad, gap, active, bounds=None)
    torch.testing.assert_close(moved.norm(dim=1), active * 0.3 * (gap + 1e-4), rtol=1e-5, atol=1e-9)


def test_step_sizes_and_gaps_of_other_dtypes(backend):
    x, grad, gap, active = inputs()
    sizes = torch.tensor([0.1, 0.2, -0.3, 0.0])
    together = fastadv.bss_step(x, grad, gap.double(), active, step_size=sizes.double())
    for n in range(4):
        one = slice(n, n + 1)
        keywords: dict[str, Any] = {"step_size": sizes[n].item()}
        assert torch.equal(fastadv.bss_step(x[one], grad[one], gap[one], active[one], **keywords), together[one])


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_nothing_to_move(shape, backend):
    empty, gap = torch.zeros(shape), torch.zeros(shape[0])
    assert fastadv.bss_step(empty, empty, gap, gap == 0).shape == shape
