"""project_hyperplane against solvers of another kind, the published code, and in the corners."""

import importlib

import pytest
import torch
from scipy.optimize import linprog

import fastadv
from tests.ops.cases.draws import Draw
from tests.ops.cases.hyperplane import _planes

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}


def problems(dtype=torch.float64, size=(10, 40), seed=1):
    drawn = _planes(Draw(dtype, seed), size)
    return drawn["x"], drawn["normal"], drawn["offset"]


def nearest(x, w, b, norm):
    """The distance to the nearest point, by a linear program; None where there is none."""
    size = len(x)
    if norm == "linf":  # t, and u - x in [-t, t]
        cost = [1.0] + [0.0] * size
        rows = [[-1.0] + [0.0] * i + [sign] + [0.0] * (size - i - 1) for i in range(size) for sign in (1.0, -1.0)]
        limits = [sign * x[i] for i in range(size) for sign in (1.0, -1.0)]
        found = linprog(cost, rows, limits, [[0.0, *w]], [b], [(0, None)] + [(0, 1)] * size)
    else:  # u = x + p - q
        rooms = [*((0, 1 - a) for a in x), *((0, a) for a in x)]
        found = linprog([1.0] * (2 * size), A_eq=[[*w, *(-w)]], b_eq=[b - w @ x], bounds=rooms)
    return found.fun if found.success else None


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_point_of_the_plane_is_nearer(norm, backend):
    x, w, b = problems(size=(10, 12))
    found = fastadv.project_hyperplane(x, w, b, norm=norm)
    reachable = 0
    for row in range(len(x)):
        distance = nearest(x[row].numpy(), w[row].numpy(), b[row].item(), norm)
        if distance is None:
            continue
        reachable += 1
        assert (found[row] @ w[row] - b[row]).abs() < 1e-10
        assert (found[row] - x[row]).norm(ORDER[norm]) == pytest.approx(distance, abs=1e-9)
    assert reachable == 8


def test_the_conditions_of_optimality_in_l2(backend):
    """The step is along the normal where the box leaves it room, and shorter where it does not."""
    x, w, b = problems()
    found = fastadv.project_hyperplane(x, w, b, norm="l2")
    for row in (0, 1, 4, 5, 6, 9):
        assert (found[row] @ w[row] - b[row]).abs() < 1e-10
        inside = (found[row] > 0) & (found[row] < 1) & (w[row] != 0)
        rates = ((found - x) / w)[row]
        assert rates[inside].max() - rates[inside].min() < 1e-10
        rate = rates[inside].mean()
        assert (rates[w[row] != 0].abs() <= rate.abs() + 1e-10).all()


@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_the_normal_does_not_matter(norm, scale, backend):
    x, w, b = problems(torch.float32)
    plain = fastadv.project_hyperplane(x, w, b, norm=norm)
    scaled = fastadv.project_hyperplane(x, w * scale, b * scale, norm=norm)
    torch.testing.assert_close(scaled, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ORDER)
def test_a_plane_out_of_reach_leads_to_the_corner_next_to_it(norm, backend):
    x, w, b = problems(torch.float32)
    for side, corner in ((-1e6, (w < 0).float()), (1e6, (w > 0).float())):
        found = fastadv.project_hyperplane(x, w, torch.full_like(b, side), norm=norm)
        assert torch.equal(found, torch.where(w == 0, x, corner))


@pytest.mark.parametrize("norm", ORDER)
def test_what_asks_for_nothing_moves_nothing(norm, backend):
    x = torch.rand(5, 7)
    w, b = torch.randn(5, 7), torch.zeros(5)
    w[0] = 0
    w[1, 3], w[2, 3] = torch.nan, torch.inf
    b[3], b[4] = torch.nan, torch.inf
    assert torch.equal(fastadv.project_hyperplane(x, w, b, norm=norm), x)


@pytest.mark.parametrize("norm", ORDER)
def test_weights_that_are_equal(norm, backend):
    x, w = torch.full((2, 8), 0.5), torch.ones(2, 8)
    w[1] = -1
    b = (w * x).sum(1) - 2
    found = fastadv.project_hyperplane(x, w, b, norm=norm)
    assert torch.equal(found, torch.tensor([[0.25] * 8, [0.75] * 8]))


@pytest.mark.parametrize("norm", ORDER)
def test_half_of_the_box_is_half_of_the_way(norm):
    """Newton's passes end at the root whatever the breakpoints: rooms and weights over many orders of magnitude."""
    generator = torch.Generator().manual_seed(2)
    x = 2 ** (-40 * torch.rand(64, 300, generator=generator, dtype=torch.float64))
    w = 2 ** (-30 * torch.rand(64, 300, generator=generator, dtype=torch.float64))
    b = (w * x).sum(1) * torch.rand(64, generator=generator, dtype=torch.float64)
    found = fastadv.project_hyperplane(x, w, b, norm=norm)
    torch.testing.assert_close((found * w).sum(1), b, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("norm", ORDER)
def test_the_published_projection(pyautoattack, norm):
    """Interior, at bounds, out of reach, on the plane, and a normal with zeros."""
    x, w, b = problems()
    theirs = getattr(importlib.import_module("pyautoattack.fab_projections"), f"projection_{norm}")
    expected = x + theirs(x, w, b)
    torch.testing.assert_close(fastadv.project_hyperplane(x, w, b, norm=norm), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("norm", ORDER)
def test_towards_a_plane_at_no_distance_that_float32_has_all_go_to_the_end(norm, backend):
    x, w = torch.full((2, 4), 0.5), torch.full((2, 4), 1e-30)
    b = torch.tensor([1e10, -1e10])
    assert fastadv.project_hyperplane(x, w, b, norm=norm).tolist() == [[1.0] * 4, [0.0] * 4]
