"""Steps at the edges: zero, NaN, infinite, tiny and huge gradients, either sign, one step size a sample."""

from __future__ import annotations

import math

import pytest
import torch

import fastadv
from fastadv.reference import step as oracle
from tests.ops.cases import Draw
from tests.ops.layouts import Guarded

NAN, INF = math.nan, math.inf
WIDE = {"eps": INF, "bounds": None}
ALONE = {"step_size": 1.0, "norm": "l1", **WIDE}


@pytest.fixture(params=["linf", "l2", "l1"])
def norm(request: pytest.FixtureRequest) -> str:
    return request.param


def middle(samples: int = 3, elements: int = 50) -> torch.Tensor:
    return torch.full((samples, elements), 0.5)


def test_zero_gradient_moves_nothing(norm, backend):
    x = Draw(torch.float32).pixels((3, 50))
    for zero in (torch.zeros_like(x), -torch.zeros_like(x)):
        assert torch.equal(fastadv.pgd_step(x, zero, x, eps=0.1, step_size=0.05, norm=norm), x)


def test_zero_gradient_projects_all_the_same(norm, backend):
    x0 = middle()
    moved = fastadv.pgd_step(x0 + 0.4, torch.zeros_like(x0), x0, eps=0.1, step_size=0.05, norm=norm)
    assert torch.equal(moved, fastadv.project(x0 + 0.4, x0, eps=0.1, norm=norm))


def test_one_zero_among_gradients_of_one_sample(norm, backend):
    x, grad = middle(), Draw(torch.float32).normal((3, 50))
    grad[1] = 0
    moved = fastadv.pgd_step(x, grad, x, eps=0.1, step_size=0.05, norm=norm, l1_fraction=1.0)
    assert torch.equal(moved[1], x[1])
    assert (moved[[0, 2]] != x[[0, 2]]).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nan_in_the_gradient_stops_its_coordinate_or_its_sample(norm, backend):
    x, grad = middle(), Draw(torch.float32).normal((3, 50))
    expected = fastadv.pgd_step(x, grad, x, eps=0.1, step_size=0.05, norm=norm)
    grad[1, 7] = NAN
    moved = fastadv.pgd_step(x, grad, x, eps=0.1, step_size=0.05, norm=norm)
    still = (slice(1, 2), slice(7, 8)) if norm == "linf" else (slice(1, 2), slice(None))
    expected[still] = x[still]
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("value", [INF, -INF])
def test_infinity_in_the_gradient(norm, value, backend):
    """Its sign is a direction; its length is none, so that an l2 step stays where it is."""
    x, grad = middle(), Draw(torch.float32).normal((3, 50))
    expected = fastadv.pgd_step(x, grad, x, eps=0.1, step_size=0.05, norm=norm)
    grad[1, 7] = value
    moved = fastadv.pgd_step(x, grad, x, eps=0.1, step_size=0.05, norm=norm)
    if norm == "linf":
        expected[1, 7] = 0.5 + math.copysign(0.05, value)
    else:
        expected[1] = x[1]
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-18, 1e-10, 1e10, 1e18, 1e30, 1e37])
def test_tiny_and_huge_gradients_keep_their_direction(norm, scale, backend):
    x, grad = torch.zeros(3, 50), Draw(torch.float32).normal((3, 50)) * scale
    moved = fastadv.pgd_step(x, grad, x, step_size=1.0, norm=norm, **WIDE)
    exact = grad.double()
    expected = exact.sign() if norm == "linf" else exact / exact.norm(dim=1, keepdim=True)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_tiny_gradients_in_half_precision(norm, backend):
    x = torch.zeros(2, 20, dtype=torch.float16)
    grad = torch.full((2, 20), 2.0**-24, dtype=torch.float16)
    grad[:, ::2] *= -1
    moved = fastadv.pgd_step(x, grad, x, step_size=1.0, norm=norm, **WIDE)
    length = 1.0 if norm == "linf" else 1 / math.sqrt(20)
    torch.testing.assert_close(moved.double(), grad.double().sign() * length, rtol=1e-3, atol=0)


def test_a_gradient_of_higher_precision_counts_fully(norm, backend):
    """Images in half precision with a float32 gradient: its range is not that of half."""
    x = torch.full((2, 20), 0.5, dtype=torch.float16)
    grad = Draw(torch.float32).normal((2, 20))
    for scale in (1e-12, 1e12):
        moved = fastadv.pgd_step(x, scale * grad, x, eps=0.5, step_size=0.1, norm=norm)
        expected = oracle.pgd_step(x, scale * grad, x, eps=0.5, step_size=0.1, norm=norm)
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)


def test_a_centre_of_higher_precision_counts_fully(norm, backend):
    x0 = Draw(torch.float32).pixels((2, 20))
    x = (x0 + 0.3).to(torch.bfloat16)
    actual = fastadv.project(x, x0, eps=0.01, norm=norm)
    expected = fastadv.project(x.float(), x0, eps=0.01, norm=norm)
    assert torch.equal(actual, expected.to(torch.bfloat16))


def test_negative_steps_descend(norm, backend):
    x, grad = middle(), Draw(torch.float32).normal((3, 50))
    down = fastadv.pgd_step(x, grad, x, eps=0.3, step_size=-0.05, norm=norm)
    assert torch.equal(down, fastadv.pgd_step(x, -grad, x, eps=0.3, step_size=0.05, norm=norm))
    assert (((down - x) * grad).sum(1) < 0).all()


def test_each_sample_has_its_radius_and_its_step(norm, backend):
    draw = Draw(torch.float32)
    x0, grad = draw.pixels((5, 50)), draw.gradient((5, 50))
    x = x0 + draw.normal((5, 50), 0.05)
    eps, size = torch.tensor([0.0, 0.1, 0.2, 0.02, INF]), torch.tensor([0.1, -0.1, 0.0, 0.5, 0.03])
    together = fastadv.pgd_step(x, grad, x0, eps=eps, step_size=size, norm=norm)
    for i in range(5):
        one = slice(i, i + 1)
        alone = fastadv.pgd_step(x[one], grad[one], x0[one], eps=eps[i].item(), step_size=size[i].item(), norm=norm)
        assert torch.equal(together[one], alone)


@pytest.mark.parametrize("mode", ["exact", "sequential"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_samples_of_one_number_have_their_radii_and_their_steps(dtype, mode, backend):
    """As a radius for each pixel makes them; more than are computed in one run, and no multiple of it."""
    draw, wide = Draw(dtype), torch.promote_types(dtype, torch.float32)
    x0, grad = draw.pixels((1300, 1)), draw.gradient((1300, 1))
    x = x0 + draw.normal((1300, 1), 0.1)
    grad[700], x[1299] = NAN, NAN
    radii, sizes = draw.positive(1300, 0.2).to(wide), draw.positive(1300, 0.2).to(wide) - 0.1
    for eps, size in ((radii, sizes), (radii, 0.05), (0.1, sizes)):
        keywords = {"eps": eps, "mode": mode}
        moved = fastadv.pgd_step(x, grad, x0, step_size=size, **keywords), fastadv.project(x, x0, **keywords)
        with fastadv.use_backend("reference"):
            expected = fastadv.pgd_step(x, grad, x0, step_size=size, **keywords), fastadv.project(x, x0, **keywords)
        torch.testing.assert_close(moved, expected, rtol=0, atol=0, equal_nan=True)


class TestLargest:
    """An l1 step moves the largest coordinates of the gradient, by equal shares."""

    @pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-10, 1.0, 1e30])
    @pytest.mark.parametrize(("fraction", "count"), [(0.05, 3), (0.02, 1), (0.9, 45), (1.0, 50)])
    def test_count_and_length(self, fraction, count, scale, backend):
        x, grad = torch.zeros(3, 50), Draw(torch.float32).normal((3, 50)) * scale
        moved = fastadv.pgd_step(x, grad, x, l1_fraction=fraction, **ALONE)
        largest = grad.abs().topk(count, dim=1).indices
        expected = torch.zeros(3, 50).scatter(1, largest, (grad.sign() / count).gather(1, largest))
        torch.testing.assert_close(moved, expected, rtol=1e-6, atol=0)

    def test_all_that_tie_move(self, backend):
        grad = torch.tensor([[3.0, -2.0, 2.0, 1.0, 0.0], [-1.0, 1.0, 1.0, 1.0, 1.0]])
        moved = fastadv.pgd_step(torch.zeros(2, 5), grad, torch.zeros(2, 5), l1_fraction=0.4, **ALONE)
        expected = torch.tensor([[1 / 3, -1 / 3, 1 / 3, 0, 0], [-0.2, 0.2, 0.2, 0.2, 0.2]])
        torch.testing.assert_close(moved, expected)

    def test_a_zero_never_moves(self, backend):
        grad = torch.tensor([[0.0, -2.0, 0.0, 1e-45, -0.0]])
        moved = fastadv.pgd_step(torch.zeros(1, 5), grad, torch.zeros(1, 5), l1_fraction=0.8, **ALONE)
        assert torch.equal(moved, torch.tensor([[0, -0.5, 0, 0.5, 0]]))

    def test_nan_stays_and_infinity_comes_first(self, backend):
        grad = torch.tensor([[NAN, 1.0, INF, -2.0], [NAN, NAN, NAN, NAN]])
        moved = fastadv.pgd_step(torch.zeros(2, 4), grad, torch.zeros(2, 4), l1_fraction=0.5, **ALONE)
        assert torch.equal(moved, torch.tensor([[0, 0, 0.5, -0.5], [0, 0, 0, 0]]))


def test_nan_in_the_iterate_or_the_centre_shows(backend):
    """An attack that diverged must not look like one that converged."""
    x, grad = middle(), Draw(torch.float32).normal((3, 50))
    broken = x.clone()
    broken[1, 7] = NAN
    for mode in ("exact", "sequential"):
        for arguments in ((broken, grad, x), (x, grad, broken)):
            moved = fastadv.pgd_step(*arguments, eps=0.1, step_size=0.05, mode=mode)
            assert moved.isnan().nonzero().tolist() == [[1, 7]]
    moved = fastadv.pgd_step(broken, grad, x, eps=0.1, step_size=0.05, norm="l2")
    assert moved[1, 7].isnan()
    assert moved[[0, 2]].isfinite().all()


def test_agrees_with_the_reference_on_every_combination_of_edges(norm, backend):
    edges = torch.tensor([0.0, -0.0, 1e-45, -1e-38, 0.25, -0.5, 1.0, 3e38, -3e38, INF, -INF, NAN])
    x = torch.tensor([0.0, 0.25, 0.999, 1.0]).repeat(12)[None].expand(12, 48).contiguous()
    grad = torch.stack([edges.roll(i).repeat_interleave(4) for i in range(12)])
    if norm == "l2":
        # One edge a sample, else all would be samples with a NaN.
        grad = torch.where(torch.eye(12, 48).bool(), edges[:, None], 0.125)
    for mode in ("exact", "sequential"):
        keywords = {"eps": 0.3, "step_size": 0.2, "norm": norm, "mode": mode}
        expected = oracle.pgd_step(x, grad, x.flip(1), **keywords)
        actual = fastadv.pgd_step(x, grad, x.flip(1), **keywords)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0 if norm == "linf" else 1e-6)


def test_in_place_writes_its_argument_and_nothing_else(norm, backend):
    draw = Draw(torch.float32)
    values = {"x": draw.pixels((3, 3, 5, 5)), "grad": draw.gradient((3, 3, 5, 5)), "x0": draw.pixels((3, 3, 5, 5))}
    for layout in ("contiguous", "channels_last"):
        guarded = Guarded()
        t = guarded.place(values, layout)
        keywords = {"eps": 0.2, "step_size": 0.1, "norm": norm}
        expected = fastadv.pgd_step(t["x"], t["grad"], t["x0"], **keywords)
        copies = {name: tensor.clone() for name, tensor in t.items()}
        assert fastadv.pgd_step_(t["x"], t["grad"], t["x0"], **keywords) is t["x"]
        assert torch.equal(t["x"], expected)
        assert not torch.equal(t["x"], copies["x"])
        t["x"].copy_(copies["x"])
        guarded.assert_untouched()


def test_in_place_takes_the_iterate_for_its_own_centre(norm, backend):
    x, grad = middle(), Draw(torch.float32).normal((3, 50))
    expected = fastadv.pgd_step(x, grad, x, eps=0.03, step_size=0.1, norm=norm)
    assert torch.equal(fastadv.pgd_step_(x, grad, x, eps=0.03, step_size=0.1, norm=norm), expected)


def test_in_place_writes_an_iterate_in_gaps_or_of_a_narrow_dtype(norm, backend):
    draw = Draw(torch.float32)
    x, grad, x0 = draw.pixels((4, 6, 5)), draw.gradient((4, 3, 5)), draw.pixels((4, 3, 5))
    keywords = {"eps": 0.2, "step_size": 0.1, "norm": norm}
    for iterate in (x[:, ::2], x[:, ::2].half()):
        expected = fastadv.pgd_step(iterate, grad, x0, **keywords)
        assert fastadv.pgd_step_(iterate, grad, x0, **keywords) is iterate
        assert torch.equal(iterate, expected)
    untouched = Draw(torch.float32).pixels((4, 6, 5))[:, 1::2]
    assert torch.equal(x[:, 1::2], untouched)


def test_a_step_without_end_moves_nothing_along_a_zero_gradient(backend):
    x0 = torch.tensor([[0.1, 0.2]])
    moved = fastadv.pgd_step(x0, torch.tensor([[0.0, 1.0]]), x0, eps=0.1, step_size=math.inf)
    assert moved[0, 0] == x0[0, 0]
    assert moved[0, 1] == pytest.approx(0.3)
