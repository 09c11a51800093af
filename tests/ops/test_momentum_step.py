"""The step with momentum: the formula written out, and gradients whose mean magnitude is hard to take."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv
from tests.ops.cases import Draw

NAN, INF = math.nan, math.inf
WIDE: dict[str, Any] = {"eps": INF, "bounds": None}


@pytest.fixture(params=["linf", "l2"])
def norm(request: pytest.FixtureRequest) -> str:
    return request.param


def inputs(dtype: torch.dtype = torch.float32, samples: int = 3, elements: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    """x, grad, momentum."""
    draw = Draw(dtype, seed=5)
    shape = (samples, elements)
    return draw.pixels(shape), draw.normal(shape, 3.0), draw.normal(shape)


def test_mi_fgsm_written_out(backend):
    x0, _, _ = inputs(torch.float64)
    weight = Draw(torch.float64, seed=6).normal((50, 4))
    x, momentum = x0, torch.zeros_like(x0)
    expected, velocity = x0, torch.zeros_like(x0)
    for _ in range(4):

        def gradient(at: Tensor) -> Tensor:
            return torch.tanh(at @ weight) @ weight.T

        x, momentum = fastadv.momentum_step(x, gradient(x), momentum, x0, eps=0.1, step_size=0.03, decay=0.9)
        g = gradient(expected)
        velocity = 0.9 * velocity + g / g.abs().mean(1, keepdim=True)
        expected = (expected + 0.03 * velocity.sign()).clamp(x0 - 0.1, x0 + 0.1).clamp(0, 1)
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(momentum, velocity)


def test_the_iterate_is_that_of_a_step_along_the_momentum(norm, backend):
    x0, grad, momentum = inputs()
    keywords: dict[str, Any] = {"eps": 0.3, "step_size": 0.1, "norm": norm}
    moved, gathered = fastadv.momentum_step(x0, grad, momentum, x0, **keywords)
    along = fastadv.pgd_step(x0, gathered, x0, **keywords)
    torch.testing.assert_close(moved, along, rtol=0, atol=0 if norm == "linf" else 1e-6)


def test_zero_gradient_adds_nothing(norm, backend):
    x0, grad, momentum = inputs()
    grad[1] = 0
    keywords: dict[str, Any] = {"eps": 0.3, "step_size": 0.1, "norm": norm, "decay": 0.5}
    moved, gathered = fastadv.momentum_step(x0, grad, momentum, x0, **keywords)
    assert torch.equal(gathered[1], 0.5 * momentum[1])
    along = fastadv.pgd_step(x0, momentum, x0, eps=0.3, step_size=0.1, norm=norm)
    torch.testing.assert_close(moved[1], along[1], rtol=0, atol=0 if norm == "linf" else 1e-6)
    momentum[1] = 0
    moved, gathered = fastadv.momentum_step(x0, grad, momentum, x0, **keywords)
    assert torch.equal(moved[1], x0[1])
    assert not gathered[1].any()


def test_nan_in_the_gradient_counts_as_zero(norm, backend):
    x0, grad, momentum = inputs()
    keywords: dict[str, Any] = {"eps": 0.3, "step_size": 0.1, "norm": norm}
    grad[1, 7] = 0
    expected = fastadv.momentum_step(x0, grad, momentum, x0, **keywords)
    grad[1, 7] = NAN
    for actual, foreseen in zip(fastadv.momentum_step(x0, grad, momentum, x0, **keywords), expected, strict=True):
        assert torch.equal(actual, foreseen)


@pytest.mark.parametrize("value", [INF, -INF])
def test_an_infinite_mean_adds_nothing(value, norm, backend):
    x0, grad, momentum = inputs()
    grad[1, 7] = value
    _, gathered = fastadv.momentum_step(x0, grad, momentum, x0, eps=0.3, step_size=0.1, norm=norm, decay=0.5)
    assert torch.equal(gathered[1], 0.5 * momentum[1])
    assert gathered.isfinite().all()


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-10, 1e10, 1e30, 1e37])
def test_tiny_and_huge_gradients_keep_their_mean(scale, backend):
    x0, grad, momentum = inputs(elements=3000)
    grad *= scale
    _, gathered = fastadv.momentum_step(x0, grad, momentum, x0, step_size=1.0, **WIDE)
    exact = grad.double()
    expected = momentum.double() + exact / exact.abs().mean(1, keepdim=True)
    torch.testing.assert_close(gathered.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [2.0**-24, 65504.0])
def test_the_ends_of_half_precision(value, backend):
    x0 = torch.full((2, 3000), 0.5, dtype=torch.float16)
    grad = torch.full_like(x0, value)
    grad[:, ::2] *= -1
    _, gathered = fastadv.momentum_step(x0, grad, torch.zeros_like(x0), x0, eps=0.3, step_size=0.1)
    assert torch.equal(gathered, grad.sign())


def test_momentum_keeps_its_own_dtype(norm, backend):
    x0, grad, momentum = inputs()
    keywords: dict[str, Any] = {"eps": 0.3, "step_size": 0.1, "norm": norm}
    half = x0.half()
    moved, gathered = fastadv.momentum_step(half, grad.half(), momentum, half, **keywords)
    assert (moved.dtype, gathered.dtype) == (torch.float16, torch.float32)
    wide = [half.float(), grad.half().float(), momentum, half.float()]
    expected, expected_momentum = fastadv.momentum_step(*wide, **keywords)
    assert torch.equal(moved, expected.half())
    assert torch.equal(gathered, expected_momentum)
    assert fastadv.momentum_step(x0, grad, momentum.bfloat16(), x0, **keywords)[1].dtype is torch.bfloat16


def test_each_sample_has_its_own_mean(norm, backend):
    x0, grad, momentum = inputs()
    grad *= torch.tensor([[1e-3], [1.0], [1e6]])
    eps, size = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.1, -0.1, 0.02])
    together = fastadv.momentum_step(x0, grad, momentum, x0, eps=eps, step_size=size, norm=norm)
    for i in range(3):
        one = slice(i, i + 1)
        keywords: dict[str, Any] = {"eps": eps[i].item(), "step_size": size[i].item(), "norm": norm}
        alone = fastadv.momentum_step(x0[one], grad[one], momentum[one], x0[one], **keywords)
        for part, whole in zip(alone, together, strict=True):
            assert torch.equal(part, whole[one])


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (2, 3, 0)])
def test_nothing_to_move(shape, norm, backend):
    empty = torch.zeros(shape)
    for result in fastadv.momentum_step(empty, empty, empty, empty, eps=0.1, step_size=0.1, norm=norm):
        assert result.shape == shape
