"""Inputs chosen to reach every kernel, whatever decides on it: aligned or not, held in registers, streamed, in parts.

The tensors are fresh, so they are aligned for 16-byte accesses; a view that starts one element later is not.
"""

from __future__ import annotations

import math

import pytest
import torch

from fastadv.ops import checks
from fastadv.ops.ball import _project as project
from fastadv.ops.square import _square_propose as square_propose
from fastadv.reference.rkd import rkd_loss_value_and_grad as related_oracle
from tests.ops.cases import FUSED, ORACLE, Draw
from tests.ops.tolerance import assert_within

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# A run of 16 bytes, many of them, as much as a block holds, more than that, and no multiple of 16 bytes.
SAMPLES = [8, 3072, 8192, 8200, 3071]


def doubles(tensors):
    return {name: t.double() for name, t in tensors.items()}


def drawn(dtype, samples, elements):
    draw = Draw(dtype)
    x0 = draw.pixels((samples, elements))
    return {
        "x": x0 + draw.normal((samples, elements), 0.02),
        "grad": draw.gradient((samples, elements)),
        "x0": x0,
        "eps": draw.positive(samples, 1.0),
        "step": draw.positive(samples, 1.0) - 0.3,
    }


def step(library, t, **keywords):
    return library.pgd_step(t["x"], t["grad"], t["x0"], eps=t["eps"], step_size=t["step"], **keywords)


@pytest.mark.parametrize("mode", ["exact", "sequential"])
@pytest.mark.parametrize("elements", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_step(norm, dtype, elements, mode, fused):
    tensors = drawn(dtype, 2, elements)
    expected = step(ORACLE, doubles(tensors), norm=norm, mode=mode)
    assert_within(norm, step(fused, tensors, norm=norm, mode=mode), expected)


@pytest.mark.parametrize("elements", [*SAMPLES, 40000])
@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("l1", 1)])
def test_the_ball_holds(norm, order, elements, clusters, fused):
    if not clusters and elements < 8200:
        pytest.skip("no clusters are launched")
    tensors = drawn(torch.float32, 3, elements)
    moved = fused.pgd_step(tensors["x"], tensors["grad"], tensors["x0"], eps=0.5, step_size=2.0, norm=norm)
    length = torch.linalg.vector_norm(moved.double() - tensors["x0"].double(), order, dim=1)
    assert (length <= 0.5 * (1 + 4 * 2**-23)).all()
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("elements", [8192, 8200, 32760, 40000])
def test_equal_distances_stay_in_the_l2_ball(elements, stopped, clusters, fused):
    if not clusters and elements < 8200:
        pytest.skip("no clusters are launched")
    # Equal terms round alike: their errors would add up. From the end of the box on some of them are its sides.
    x = (0.25 + Draw(torch.float32).pixels((12, 1)) / 2).repeat(1, elements)
    if stopped:
        x[:, ::2] *= -1
    zero = torch.zeros_like(x)
    # A momentum step never goes to clusters.
    for moved in (
        fused.project(x, zero, eps=1.0, norm="l2"),
        fused.momentum_step(x, zero, zero, zero, eps=1.0, step_size=0.0, norm="l2")[0],
    ):
        length = torch.linalg.vector_norm(moved.double(), dim=1)
        assert length.max() <= 1 + 4 * 2**-23
        assert length.min() >= 1 - 4 * 2**-23


@pytest.mark.parametrize("elements", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linf_step_is_exact(dtype, elements, fused):
    tensors = drawn(dtype, 3, elements)
    assert torch.equal(step(fused, tensors), step(ORACLE, tensors))
    keywords = {"eps": 0.1, "step_size": 0.01}
    arguments = (tensors["x"], tensors["grad"], tensors["x0"])
    assert torch.equal(fused.pgd_step(*arguments, **keywords), ORACLE.pgd_step(*arguments, **keywords))


# Few samples that are shared out over several blocks, 16 bytes at a time and one by one; clusters of many small parts.
@pytest.mark.parametrize("mode", ["exact", "sequential"])
@pytest.mark.parametrize("elements", [8200, 32768, 40000, 40001])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_large_samples(dtype, elements, mode, clusters, fused):
    if not clusters and elements < 32768:
        pytest.skip("a block takes such a sample alone: test_step")
    tensors = drawn(dtype, 3, elements)
    exact = doubles(tensors)
    for scale in (1.0, 1e-24, 1e22) if dtype == torch.float32 else (1.0,):
        scaled = tensors | {"grad": scale * tensors["grad"]}
        assert_within("l2", step(fused, scaled, norm="l2", mode=mode), step(ORACLE, exact, norm="l2", mode=mode))
    far = tensors["x0"] + tensors["grad"]
    far[1] = tensors["x0"][1]
    for eps in (0.0, 3.0, math.inf):
        expected = ORACLE.project(far.double(), exact["x0"], eps=eps, norm="l2", mode=mode)
        assert_within("l2", fused.project(far, tensors["x0"], eps=eps, norm="l2", mode=mode), expected)


# 16 bytes at a time and one by one; held, streamed, in clusters and shared out.
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("elements", [8, 3071, 8200, 40000])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_radius_that_is_nan_makes_nan_of_its_sample(norm, elements, exact, clusters, fused):
    if not clusters and elements < 8200:
        pytest.skip("no clusters are launched")
    draw = Draw(torch.float32)
    x0 = draw.pixels((3, elements))
    x = x0 + draw.normal((3, elements))
    x[2] = x0[2]
    numbers = (0.0, checks.NORMS[norm], -10.0, 10.0, exact)
    projected = project.on(x)(x, x0, *numbers, torch.tensor([0.1, math.nan, math.nan]))
    assert projected[1:].isnan().all()
    assert torch.equal(projected[:1], project.on(x)(x[:1], x0[:1], *numbers, torch.tensor([0.1])))


@pytest.mark.parametrize(("norm", "most"), [(0, 4), (1, 4), (2, 2)])
def test_a_window_that_does_not_fit_is_the_nearest_that_does(norm, most, fused):
    """Sides on a device are not read before a kernel reads them."""
    x, none = torch.zeros(2, 3, 4, 5), torch.zeros(2, dtype=torch.int64)
    bumps = torch.rand(1, most, most) if norm else None
    for side, nearest in ((-3, 1), (0, 1), (most + 1, most), (2**40, most)):
        found, expected = (
            square_propose.on(x)(x, x, none, none, torch.tensor([k]), 0.1, norm, 0.0, 1.0, 0, bumps)
            for k in (side, nearest)
        )
        assert torch.equal(found, expected)


# Held, streamed, in clusters and shared out: a search of more passes than the usual sample needs.
@pytest.mark.parametrize("elements", [3072, 8200, 40000])
@pytest.mark.parametrize("directed", [True, False])
def test_distances_of_all_orders_of_magnitude(directed, elements, clusters, fused):
    if not clusters and elements < 8200:
        pytest.skip("no clusters are launched")
    draw = Draw(torch.float32)
    x0, grad = draw.pixels((2, elements)), draw.normal((2, elements))
    delta = grad * draw.normal((2, elements), 6.0).exp()
    # One sample ends after a pass or two, the other needs all of them.
    delta[0] = 0.1 * grad[0]
    eps = 0.9 * ((x0 + delta).clamp(0, 1) - x0).norm(dim=1)

    def moved(library, x0, delta, eps):
        if not directed:
            return library.project(x0 + delta, x0, eps=eps, norm="l2")
        return library.pgd_step(x0, delta, x0, eps=eps, step_size=delta.norm(dim=1), norm="l2")

    expected = moved(ORACLE, x0.double(), delta.double(), eps.double())
    torch.testing.assert_close(moved(fused, x0, delta, eps).double(), expected, rtol=0, atol=4e-6)


# A cluster whose blocks hold as much as they can, unaligned; and more than any cluster holds.
@pytest.mark.parametrize("elements", [8201, 290_001, 320_000])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_samples_at_the_bounds_of_clusters(norm, elements, clusters, fused):
    if not clusters and elements < 320_000:
        pytest.skip("test_large_samples has such samples")
    tensors = drawn(torch.float32, 1, elements)
    assert_within(norm, step(fused, tensors, norm=norm), step(ORACLE, doubles(tensors), norm=norm))


def test_a_step_of_a_cluster_in_place(fused):
    tensors = drawn(torch.float32, 2, 8200)
    expected = step(ORACLE, doubles(tensors), norm="l2")
    x = tensors["x"].clone()
    fused.pgd_step_(x, tensors["grad"], tensors["x0"], eps=tensors["eps"], step_size=tensors["step"], norm="l2")
    assert_within("l2", x, expected)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("elements", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_momentum_step(dtype, elements, norm, fused):
    tensors = drawn(dtype, 2, elements) | {"m": Draw(dtype, seed=1).normal((2, elements))}
    # Nowhere does rounding decide the sign.
    tensors["m"] = tensors["m"] + 8 * tensors["m"].sign() + 8 * (tensors["m"] == 0)

    def call(library, t):
        keywords = {"eps": t["eps"], "step_size": t["step"], "decay": 0.9, "norm": norm}
        return library.momentum_step(t["x"], t["grad"], t["m"], t["x0"], **keywords)

    moved, gathered = call(fused, tensors)
    expected, expected_momentum = call(ORACLE, doubles(tensors))
    assert_within(norm, moved, expected)
    assert_within("momentum", gathered, expected_momentum)


@pytest.mark.parametrize("scale", [1e-42, 1e37])
@pytest.mark.parametrize("elements", [64, 8200, 63])
def test_means_that_neither_overflow_nor_underflow(elements, scale, fused):
    tensors = drawn(torch.float32, 2, elements)
    grad, zeros = scale * tensors["grad"], torch.zeros(2, elements)
    grad[1, 3] = math.nan
    _, gathered = fused.momentum_step(tensors["x"], grad, zeros, tensors["x0"], eps=0.1, step_size=0.1)
    exact = grad.double().nan_to_num(nan=0)
    assert_within("momentum", gathered, exact / exact.abs().mean(1, keepdim=True))


@pytest.mark.parametrize("elements", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bss_step(dtype, elements, fused):
    tensors = drawn(dtype, 3, elements)
    tensors["x"][1, 0] = 7
    gap, active = torch.tensor([2.0, 1.0, 0.5]).to(tensors["eps"].dtype), torch.tensor([True, False, True])
    moved = fused.bss_step(tensors["x"], tensors["grad"], gap, active)
    exact = doubles(tensors)
    assert_within("l2", moved, ORACLE.bss_step(exact["x"], exact["grad"], gap.double(), active))
    assert torch.equal(moved[1], tensors["x"][1])


@pytest.mark.parametrize("elements", [8, 3072, 63])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mix(dtype, elements, fused):
    x = Draw(dtype).normal((5, elements))
    permutation = torch.tensor([4, 0, 0, 2, 0])
    for lam in (0.3, torch.tensor([0.1, 0.9, 1.0, 0.0, -0.5])):
        if dtype == torch.float32:
            assert torch.equal(fused.mix(x, lam, permutation), ORACLE.mix(x, lam, permutation))
        alone = x.clone().requires_grad_()
        fused.mix(alone, lam, permutation).backward(x)
        lam_n = lam.double() if isinstance(lam, torch.Tensor) else None
        expected = ORACLE.mix_backward(x.double(), 0.3, permutation, lam_n)
        assert_within("mix", alone.grad, expected)


def test_mix_finds_all_that_took_an_index(fused):
    """Over several blocks, and several turns of each; on numbers whose sums have no rounding."""
    x = Draw(torch.float32).normal((600, 5)).mul(8).round()
    permutation = torch.arange(599, -1, -1)
    permutation[::3] = 599
    alone = x.clone().requires_grad_()
    fused.mix(alone, 0.25, permutation).backward(x)
    assert torch.equal(alone.grad.double(), ORACLE.mix_backward(x.double(), 0.25, permutation))


def test_an_index_out_of_range_makes_its_sample_nan(fused):
    x = Draw(torch.float32).normal((4, 64)).requires_grad_()
    permutation = torch.tensor([3, 4, -1, 2**40])
    mixed = fused.mix(x, 0.3, permutation)
    assert mixed.isnan().all(1).tolist() == [False, True, True, True]
    assert torch.equal(mixed[0], 0.3 * x[0] + (1 - 0.3) * x[3])
    mixed.sum().backward()
    assert torch.allclose(x.grad, torch.tensor([0.3, 0.3, 0.3, 1.0])[:, None].expand(4, 64))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_a_step_in_place_writes_nothing_beside_its_slice(start, norm, fused):
    tensors = drawn(torch.float32, 3, 64)
    expected = step(ORACLE, doubles(tensors), norm=norm)
    buffer = torch.full([3 * 64 + 8], 7.0)
    x = buffer[start : start + 3 * 64].view(3, 64).copy_(tensors["x"])
    fused.pgd_step_(x, tensors["grad"], tensors["x0"], eps=tensors["eps"], step_size=tensors["step"], norm=norm)
    assert_within("l2", x.clone(), expected)
    assert (buffer[:start] == 7).all()
    assert (buffer[start + 3 * 64 :] == 7).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("elements", [64, 8200, 63])
def test_gradients_that_point_nowhere_or_hardly(elements, norm, fused):
    tensors = drawn(torch.float32, 6, elements)
    tensors["grad"][0] = 0
    tensors["grad"][1, 1] = math.nan
    tensors["grad"][2, 1] = math.inf
    tensors["grad"][3] *= 1e-38
    tensors["grad"][4] *= 1e30
    tensors["grad"][5] = -0.0
    # Ball and box are far away, so that the l2 step itself is seen.
    keywords = {} if norm == "linf" else {"norm": norm, "bounds": None}
    tensors["eps"].fill_(10)
    # In float64 the smallest of these gradients would be others than in float32.
    expected = step(ORACLE, tensors, **keywords)
    assert_within(norm, step(fused, tensors, **keywords), expected.double())
    assert torch.equal(fused.project(expected, tensors["x0"], eps=0.0, norm=norm), tensors["x0"])


# Magnitudes that differ only in their last bits, in pairs of neighbours and all at once, and some that are zero.
@pytest.mark.parametrize("elements", [64, 63, 3072, 8200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_largest_coordinates_are_found_to_the_last_bit(dtype, elements, fused):
    order = torch.randperm(elements, generator=torch.Generator().manual_seed(0))
    near = 1 + (order // 2).to(dtype) * torch.finfo(dtype).eps
    few = torch.where(order < 5, near, 0)
    grad = torch.stack((near, near * torch.finfo(dtype).tiny, few, torch.where(order < 40, 0.0, near))) * (-1) ** order
    x0 = torch.zeros_like(grad)
    moved = fused.pgd_step(x0, grad, x0, eps=2.0, step_size=1.0, norm="l1", bounds=None, l1_fraction=0.5)
    expected = ORACLE.pgd_step(
        x0.double(), grad.double(), x0.double(), eps=2.0, step_size=1.0, norm="l1", bounds=None, l1_fraction=0.5
    )
    assert torch.equal(moved != 0, expected != 0)
    assert_within("l1", moved, expected)


# Every fourth coordinate comes to rest at the box on its way to x0; thresholds before that and after.
@pytest.mark.parametrize("elements", [64, 8200, 63])
def test_an_l1_ball_around_what_lies_outside_of_the_box(elements, fused):
    outside = torch.arange(elements) % 4 == 0
    x0 = torch.where(outside, -0.3, 0.1).expand(3, -1).contiguous()
    far = x0 + torch.where(outside, 0.6, 0.8)
    eps = torch.tensor([0.6, 0.425, 0.4]) * elements
    expected = ORACLE.project(far.double(), x0.double(), eps=eps.double(), norm="l1")
    assert_within("l1", fused.project(far, x0, eps=eps, norm="l1"), expected)


@pytest.mark.parametrize("elements", [64, 8200, 63])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_project_at_its_edges(norm, elements, fused):
    tensors = drawn(torch.float32, 4, elements)
    # An l1 projection takes away a part of what is far, and knows it no better than that is rounded.
    far = tensors["x0"] + (1e15 if norm == "l2" else 1.0) * tensors["grad"]
    for eps in (0.0, 1e-30, 0.5, math.inf):
        expected = ORACLE.project(far.double(), tensors["x0"].double(), eps=eps, norm=norm)
        assert_within(norm, fused.project(far, tensors["x0"], eps=eps, norm=norm), expected)
    far[2, 5] = math.nan
    assert fused.project(far, tensors["x0"], eps=1.0, norm=norm)[2].isnan().any()
    assert not fused.project(far, tensors["x0"], eps=1.0, norm=norm)[3].isnan().any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5, 7), (1, 3, 40, 41), (3, 9000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_start(dtype, shape, norm, fused):
    x0 = Draw(dtype).pixels(shape)
    keywords = {"eps": 0.5, "norm": norm, "seed": -3}
    start = fused.random_start(x0, **keywords)
    if norm == "linf":
        assert torch.equal(start, ORACLE.random_start(x0, **keywords))
    else:
        assert_within("noise", start, ORACLE.random_start(x0.double(), **keywords))
    if len(shape) == 4:
        last = fused.random_start(x0.contiguous(memory_format=torch.channels_last), **keywords)
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(last, start)


def stein(dtype, images, particles, elements):
    draw = Draw(dtype)
    x0 = draw.pixels((images, elements))
    size = (images, particles, elements)
    return {"x": x0[:, None] + draw.normal(size, 0.02), "score": draw.normal(size), "x0": x0}


def svgd(library, t, **keywords):
    return library.svgd_step(t["x"], t["score"], t["x0"], **keywords)


def assert_moves_as_the_reference(fused, tensors, **keywords):
    exact = doubles(tensors)
    doubtful = None
    if keywords["update"] == "sign":
        free = keywords | {"update": "raw", "eps": math.inf, "step_size": 1.0, "bounds": None, "norm": "linf"}
        phi = svgd(ORACLE, exact, **free) - exact["x"]
        doubtful = phi.abs() <= 1e-4 * phi.square().mean().sqrt()
        if keywords["norm"] == "l2":
            # One element that goes the other way changes how far all go.
            tensors["score"].masked_fill_(doubtful, 100.0)
            exact, doubtful = doubles(tensors), None
    assert_within("svgd", svgd(fused, tensors, **keywords), svgd(ORACLE, exact, **keywords), doubtful=doubtful)


# Images, particles, elements: one launch, aligned or not, as many particles as there can be; two, held and streamed.
# A cluster of several blocks adds up matrices of more entries than these have threads.
PARTICLES = [(2, 1, 64), (3, 4, 64), (2, 5, 67), (1, 32, 40), (1, 4, 8192), (1, 2, 16400), (1, 12, 4099), (1, 24, 1220)]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("update", ["sign", "l2", "raw"])
@pytest.mark.parametrize("size", PARTICLES, ids=str)
def test_svgd_step(size, update, norm, clusters, fused):
    if not clusters and (norm != "linf" or update == "l2" or size[2] % 4):
        pytest.skip("no clusters are launched")
    scale = "rms" if update == "l2" else 0.7
    keywords = {"eps": 0.3, "step_size": 0.1, "norm": norm, "update": update, "score_scale": scale}
    assert_moves_as_the_reference(fused, stein(torch.float32, *size), **keywords)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("elements", [64, 16400])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_svgd_step_in_every_dtype(dtype, elements, norm, clusters, fused):
    if not clusters and norm != "linf":
        pytest.skip("no clusters are launched")
    keywords = {"eps": 0.3, "step_size": 0.1, "norm": norm, "update": "raw", "score_scale": "rms"}
    assert_moves_as_the_reference(fused, stein(dtype, 2, 4, elements), **keywords)


@pytest.mark.parametrize(("particles", "elements"), [(4, 64), (4, 16400), (24, 64)])
def test_particles_that_coincide_and_numbers_that_are_undefined(particles, elements, fused):
    tensors = stein(torch.float32, 5, particles, elements)
    tensors["x"][0] = tensors["x"][0, :1]
    tensors["score"][1, 2, 5] = math.nan
    tensors["score"][2] = 0
    # Half of the distances and more are zero.
    tensors["x"][3, : particles * 4 // 5] = tensors["x"][3, 0]
    tensors["x"][4, 1, 7] = math.nan
    for scale in (1.0, "rms"):
        keywords = {"eps": 0.3, "step_size": 0.1, "update": "raw", "score_scale": scale}
        assert_within("svgd", svgd(fused, tensors, **keywords), svgd(ORACLE, doubles(tensors), **keywords))


# In one launch and in two, held and streamed; where the products of an image's scores overflow or are zero.
@pytest.mark.parametrize("exponent", [-120, 120])
@pytest.mark.parametrize("size", [(2, 5, 48), (2, 5, 7000), (2, 5, 7001)], ids=str)
def test_rms_balances_scores_whose_products_no_number_holds(size, exponent, clusters, fused):
    tensors = stein(torch.float32, *size)
    keywords = {"eps": 0.3, "step_size": 0.1, "update": "raw", "score_scale": "rms"}
    expected = svgd(fused, tensors, **keywords)
    tensors["score"][1] *= 2.0**exponent
    torch.testing.assert_close(svgd(fused, tensors, **keywords), expected)


def test_an_infinite_coordinate_counts_for_nothing_in_an_l1_ball(clusters, fused):
    tensors = drawn(torch.float32, 2, 8200)
    tensors["x"][1, 3] = math.inf
    projected = fused.project(tensors["x"], tensors["x0"], eps=0.5, norm="l1")
    expected = ORACLE.project(tensors["x"].double(), tensors["x0"].double(), eps=0.5, norm="l1")
    assert projected[1, 3] == 1
    assert_within("l1", projected, expected)


def test_a_narrow_kernel_repels_by_what_lies_beside_its_diagonal(fused):
    """Entries of 1e-16 beside ones, which sums over both would lose, and with them the size of the scores."""
    tensors = stein(torch.float64, 1, 5, 600)
    keywords = {"eps": math.inf, "bounds": None, "update": "raw", "score_scale": "rms", "bandwidth": 0.08}
    moves = [svgd(library, tensors, step_size=1e16, **keywords) - tensors["x"] for library in (fused, ORACLE)]
    assert moves[1].abs().max() > 0.01
    torch.testing.assert_close(*moves, rtol=1e-6, atol=1e-9)


def test_more_particles_than_fit_are_refused(fused):
    with pytest.raises(ValueError, match="at most 32 particles"):
        svgd(fused, stein(torch.float32, 1, 33, 8), eps=0.3, step_size=0.1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_towards_a_plane_at_no_distance_that_float32_has_all_go_to_the_end(norm, fused):
    x, w = torch.full((2, 4), 0.5), torch.full((2, 4), 1e-30)
    moved = fused.project_hyperplane(x, w, torch.tensor([1e10, -1e10]), norm=norm)
    assert moved.tolist() == [[1.0] * 4, [0.0] * 4]


# A warp a row with few numbers a lane, and with many; a block a row, one by one and 16 bytes at a time; several blocks.
CLASSES = [4, 128, 129, 1000, 1027, 4104, 8200]
LOSSES = {
    "kl_distill": lambda f, t: f.kl_distill_value_and_grad(t["s"], t["t"], temperature=4.0),
    "kd_loss": lambda f, t: f.kd_loss_value_and_grad(t["s"], t["t"], t["y"]),
    "js_distill": lambda f, t: f.js_distill_value_and_grad(t["s"], t["t"], temperature=2.0),
    "dkd_loss": lambda f, t: f.dkd_loss_value_and_grad(t["s"], t["t"], t["y"]),
    "igdm_loss": lambda f, t: f.igdm_loss_value_and_grad(t["s"], t["t"], t["t"], t["s"]),
    "loss_matching": lambda f, t: f.loss_matching_value_and_grad(t["s"], t["t"], t["y"]),
    "attack_loss_ce": lambda f, t: f.attack_loss_value_and_grad(t["s"], t["y"]),
    "attack_loss_kl": lambda f, t: f.attack_loss_value_and_grad(t["s"], kind="kl", reference=t["t"]),
    "attack_loss_cw": lambda f, t: f.attack_loss_value_and_grad(t["s"], t["y"], kind="cw"),
    "attack_loss_dlr": lambda f, t: f.attack_loss_value_and_grad(t["s"], t["y"], kind="dlr"),
    "attack_loss_dlr_towards": lambda f, t: f.attack_loss_value_and_grad(
        t["s"], t["y"], kind="dlr", reference=another(t), targeted=True
    ),
    "attack_loss_dlr_from": lambda f, t: f.attack_loss_value_and_grad(
        t["s"], another(t), kind="dlr", reference=t["y"], targeted=True
    ),
}
RANKED = [name for name in LOSSES if "cw" in name or "dlr" in name]


def another(t):
    """A class of each row other than y, also where y is none."""
    return (t["y"] + 1) % t["s"].shape[1]


class OracleOfLosses:
    """Value-and-gradient functions of the reference, which live in its modules."""

    from fastadv.reference.attack_loss import attack_loss_value_and_grad
    from fastadv.reference.divergence import (
        dkd_loss_value_and_grad,
        js_distill_value_and_grad,
        kd_loss_value_and_grad,
        kl_distill_value_and_grad,
    )
    from fastadv.reference.matching import (
        activation_boundary_loss_value_and_grad,
        igdm_loss_value_and_grad,
        loss_matching_value_and_grad,
    )
    from fastadv.reference.metric import triplet_margin_loss_value_and_grad


def logits(dtype, samples, classes):
    draw = Draw(dtype)
    shape = (samples, classes)
    return {"s": draw.normal(shape, 2.0), "t": draw.normal(shape, 3.0), "y": draw.classes(samples, classes)}


def assert_loss_agrees(fused, loss, tensors, kind="loss"):
    exact = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
    actual, expected = LOSSES[loss](fused, tensors), LOSSES[loss](OracleOfLosses, exact)
    for result, value in zip(actual, expected, strict=False):
        if result is not None:
            assert_within(kind, result, value)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, dtype, classes, clusters, fused):
    if not clusters and classes <= 1024:
        pytest.skip("no clusters are launched")
    assert_loss_agrees(fused, loss, logits(dtype, 3, classes))


@pytest.mark.parametrize("classes", [10, 1000, 4104, 1027, 8200])
@pytest.mark.parametrize("loss", LOSSES)
def test_saturated_and_absent_logits(loss, classes, clusters, fused):
    if not clusters and classes <= 1024:
        pytest.skip("no clusters are launched")
    tensors = logits(torch.float32, 5, classes)
    tensors["s"][0] *= 1e4
    tensors["t"][0] *= -1e4
    # One class of the teacher is impossible; the student gives all its weight to another.
    tensors["t"][1, 1] = -math.inf
    tensors["y"][1] = 0
    tensors["s"][2, 3] = math.nan
    tensors["s"][3] = -math.inf
    tensors["t"][4, :] = 7.0
    assert_loss_agrees(fused, loss, tensors)


@pytest.mark.parametrize("classes", [10, 1000, 4104, 1027, 8200])
def test_dkd_loss_without_other_classes(classes, clusters, fused):
    if not clusters and classes <= 1024:
        pytest.skip("no clusters are launched")
    tensors = logits(torch.float32, 3, classes)
    tensors["y"][:] = 1
    for network, row in (("s", 0), ("t", 1)):
        own = tensors[network][row, 1].clone()
        tensors[network][row] = -math.inf
        tensors[network][row, 1] = own
    loss, grad, *_ = LOSSES["dkd_loss"](fused, tensors)
    assert loss[0] == math.inf
    assert grad.isfinite().all()
    assert_loss_agrees(fused, "dkd_loss", tensors)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("loss", RANKED)
def test_of_equal_logits_the_lower_class_ranks_first(loss, classes, fused):
    tensors = logits(torch.float32, 4, classes)
    for row in range(4):
        # A few levels that many classes share, up to one for all; the reference's sort is stable.
        one = {name: t[row : row + 1] for name, t in tensors.items()}
        one["s"] = (one["s"] / (row + 1)).round() if row < 3 else torch.full_like(one["s"], 2.5)
        assert_loss_agrees(fused, loss, one)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_fewest_classes_that_can_be_ranked(classes, fused):
    tensors = logits(torch.float32, 3, classes)
    for loss in RANKED[: classes - 1]:
        assert_loss_agrees(fused, loss, tensors)


@pytest.mark.parametrize("classes", [10, 1000, 4104, 1027, 8200])
@pytest.mark.parametrize("loss", ["kd_loss", "dkd_loss", "loss_matching", "attack_loss_ce", *RANKED])
def test_a_target_that_is_no_class_makes_its_row_nan(loss, classes, fused):
    tensors = logits(torch.float32, 4, classes)
    tensors["y"][1:3] = torch.tensor([-1, 2**40])
    value, grad, *_ = LOSSES[loss](fused, tensors)
    assert value.isnan().tolist() == [False, True, True, False]
    assert grad.isnan().all(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(("samples", "classes"), [(64, 100), (128, 10), (129, 10), (1, 1000), (3, 1000), (0, 10)])
def test_the_mean_over_a_batch(samples, classes, dtype, fused):
    tensors = logits(dtype, samples, classes)
    mean = fused.kl_distill(tensors["s"], tensors["t"])
    assert_within("loss", mean, ORACLE.kl_distill(tensors["s"].double(), tensors["t"].double()))
    assert torch.equal(fused.kl_distill(tensors["s"], tensors["t"]).nan_to_num(), mean.nan_to_num())


ORDERS = [1.0, 2.0, 3.0, math.inf]


def features(dtype, samples, count, p):
    draw = Draw(dtype)
    scale = count ** (-1 / p)
    return {
        name: draw.normal((samples, count), scale * spread) for name, spread in (("a", 1.0), ("p", 1.2), ("n", 1.3))
    }


def assert_triplets_agree(fused, tensors, **how):
    actual = fused.triplet_margin_loss_value_and_grad(tensors["a"], tensors["p"], tensors["n"], **how)
    exact = doubles(tensors)
    expected = OracleOfLosses.triplet_margin_loss_value_and_grad(exact["a"], exact["p"], exact["n"], **how)
    for result, value in zip(actual, expected, strict=True):
        assert_within("metric", result, value)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("count", CLASSES)
@pytest.mark.parametrize("p", ORDERS)
def test_triplets(p, count, swap, fused):
    assert_triplets_agree(fused, features(torch.float32, 3, count, p), p=p, swap=swap, margin=0.1, eps=1e-2)


@pytest.mark.parametrize("count", [128, 1000, 4104, 129])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triplets_in_every_dtype(dtype, count, fused):
    tensors = features(dtype, 3, count, 2.0)
    margins = torch.tensor([0.01, 0.5, 2.0], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert_triplets_agree(fused, tensors, swap=True, margin=margins)


@pytest.mark.parametrize("count", [10, 1000, 4104, 129])
@pytest.mark.parametrize(("p", "distance"), [*((p, 0.0) for p in (0.0, 0.5, *ORDERS)), *((p, 0.25) for p in ORDERS)])
def test_triplets_that_coincide_or_are_not_finite(p, distance, count, fused):
    """All differences of points that coincide are eps, so that all of them are the largest."""
    tensors = features(torch.float32, 6, count, max(p, 0.5))
    eps = distance * count ** (-1 / max(p, 0.5))
    tensors["p"][0] = tensors["a"][0]
    tensors["n"][1] = tensors["p"][1] = tensors["a"][1]
    tensors["a"][2, 1] = math.nan
    tensors["n"][3, 2] = math.nan
    tensors["p"][4, 3] = math.inf
    tensors["n"][5, 4] = -math.inf
    how = {"p": p, "eps": eps, "swap": True}
    exact = doubles(tensors)
    actual = fused.triplet_margin_loss_value_and_grad(tensors["a"], tensors["p"], tensors["n"], **how)
    expected = OracleOfLosses.triplet_margin_loss_value_and_grad(exact["a"], exact["p"], exact["n"], **how)
    for result, value in zip(actual, expected, strict=True):
        torch.testing.assert_close(result.double(), value, rtol=1e-4, atol=1e-4, equal_nan=True)


# One part of a sample and several, 16 bytes at a time and one by one.
@pytest.mark.parametrize("shape", [(3, 8), (2, 4096), (2, 4104), (1, 9000), (3, 3071), (2, 3, 4, 8)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activation_boundaries(dtype, shape, fused):
    draw = Draw(dtype)
    student, teacher = draw.normal(shape, 1.5), draw.gradient(shape)
    margin = torch.linspace(0.5, 1.5, shape[0], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    actual = fused.activation_boundary_loss_value_and_grad(student, teacher, margin=margin)
    expected = OracleOfLosses.activation_boundary_loss_value_and_grad(student.double(), teacher.double(), margin=margin)
    for result, value in zip(actual, expected, strict=True):
        assert_within("loss", result, value)
    mean = fused.activation_boundary_loss(student, teacher, margin=margin)
    assert_within("loss", mean, expected[0].mean())


def assert_relations_agree(fused, student, teacher):
    results = fused.rkd_loss_value_and_grad(student, teacher)
    for result, expected in zip(results, related_oracle(student.double(), teacher.double()), strict=True):
        assert_within("rkd", result, expected)
    assert torch.equal(fused.rkd_loss(student, teacher), results[0])


# Part of a tile of pairs, a tile and a row of the gradient's, several; a run of features, part of one, several.
@pytest.mark.parametrize("shape", [(5, 3), (16, 32), (8, 128), (17, 33), (35, 260)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_relations(dtype, shape, fused):
    draw = Draw(dtype)
    assert_relations_agree(fused, draw.normal(shape), draw.normal((shape[0], 40), 3.0))


def test_relations_of_points_that_coincide_or_nearly_do(fused):
    draw = Draw(torch.float32)
    student, teacher = draw.normal((20, 6)), draw.normal((20, 6), 1e8)
    student[3], student[19], teacher[18] = student[2], student[2], teacher[2]
    student[5] = student[4] + 1e-4 * student[6]
    assert_relations_agree(fused, student, teacher)
    assert_relations_agree(fused, student, torch.zeros(20, 6))
    assert_relations_agree(fused, torch.ones(20, 6), teacher)
    teacher[7, 1] = math.nan
    loss, grad = fused.rkd_loss_value_and_grad(student, teacher)
    assert loss.isnan()
    assert grad.isnan().any()


def related(samples, wanted):
    student = Draw(torch.float32).normal((samples, 6)).requires_grad_(wanted)
    return lambda: FUSED.rkd_loss(student, student.detach())


@pytest.mark.parametrize("shape", [(3, 64), (3, 7), (1, 1), (200, 8)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_grad(dtype, shape, fused):
    stored = Draw(torch.float64 if dtype == torch.float64 else torch.float32).normal(shape)
    for factor in (stored[:, 0].contiguous(), stored[0, 0].clone()):
        expected = ORACLE.scale_grad(stored.double(), factor.double(), dtype)
        assert_within("scale", fused.scale_grad(stored, factor, dtype), expected)


def boundary(samples, elements, reduction):
    return lambda: FUSED.activation_boundary_loss(*torch.zeros(2, samples, elements), reduction=reduction)


def momentum_step(norm, elements):
    t = drawn(torch.float32, 2, elements)
    return FUSED.momentum_step(t["x"], t["grad"], t["grad"], t["x0"], eps=0.1, step_size=0.1, norm=norm)


def mean_of_kl(samples, classes):
    return lambda: FUSED.kl_distill(*(logits(torch.float32, samples, classes)[name] for name in "st"))


LAUNCHES = [
    *(
        (1, lambda n=n, d=d: step(FUSED, drawn(torch.float32, 2, d), norm=n))
        for n in ("linf", "l2", "l1")
        for d in SAMPLES
    ),
    *((1, lambda n=n, d=d: momentum_step(n, d)) for n in ("linf", "l2", "l1") for d in SAMPLES),
    (1, lambda: FUSED.bss_step(torch.ones(2, 64), torch.ones(2, 64), torch.ones(2), torch.ones(2) > 0)),
    (1, lambda: FUSED.mix(torch.ones(2, 64), 0.5, torch.tensor([1, 0]))),
    (2, lambda: FUSED.mix_backward(torch.ones(2, 64), 0.5, torch.tensor([1, 0]))),
    *((1, lambda n=n: FUSED.random_start(torch.zeros(2, 64), eps=1.0, norm=n)) for n in ("linf", "l2", "l1")),
    *(
        (count, lambda size=size, n=n: svgd(FUSED, stein(torch.float32, *size), eps=0.3, step_size=0.1, norm=n))
        for size, count in (((2, 4, 3072), 1), ((1, 4, 6148), 2), ((1, 32, 3072), 2))
        for n in ("l2", "l1")
    ),
    # The mean over a batch of many rows is taken by a second one, and over few short rows at once.
    *((1, mean_of_kl(*size)) for size in ((64, 100), (128, 10), (1, 1000), (0, 10))),
    *((2, mean_of_kl(*size)) for size in ((129, 10), (3, 1000), (3, 1030))),
    # Many values are added up in two steps.
    (3, mean_of_kl(16385, 2)),
    # A part a block: what one block has seen needs no sum.
    *((1, boundary(*how)) for how in ((3, 4096, "none"), (1, 4096, "sum"), (0, 8, "sum"))),
    *((2, boundary(*how)) for how in ((3, 4097, "none"), (2, 8, "sum"))),
    # The gradient is the last one.
    *((count, related(*how)) for count, how in ((6, (4, True)), (5, (4, False)), (1, (1, True)))),
]


@pytest.mark.parametrize(("count", "call"), LAUNCHES)
def test_launches(count, call, launches):
    assert launches(call) == count


@pytest.mark.parametrize(("size", "count"), [((2, 4, 3072), 1), ((1, 4, 6148), 2), ((1, 32, 3072), 2)], ids=str)
def test_launches_of_particles(size, count, clusters, launches):
    call = lambda: svgd(FUSED, stein(torch.float32, *size), eps=0.3, step_size=0.1)  # noqa: E731
    assert launches(call) == (1 if clusters else count)


def test_launches_of_a_few_long_rows(clusters, launches):
    assert launches(mean_of_kl(3, 8200)) == (2 if clusters else 3)


@pytest.mark.parametrize("alone", [False, True])
def test_launches_of_large_samples(alone, clusters, launches):
    points = torch.ones(2, 32768)
    if alone:
        call, count = lambda: FUSED.project(points, torch.zeros_like(points), eps=1.0, norm="l2"), 12
    else:
        call, count = lambda: step(FUSED, drawn(torch.float32, 2, 32768), norm="l2"), 13
    assert launches(call) == (1 if clusters else count)
