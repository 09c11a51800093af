"""The Stein step: the formula written out, and what particles may and may not do to each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv
from tests.ops.cases import Draw

FREE: dict[str, Any] = {"eps": math.inf, "bounds": None}


def particles(images: int = 2, count: int = 4, elements: int = 12, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Particles, score and clean images."""
    draw = Draw(dtype, seed=13)
    x0 = draw.pixels((images, elements))
    x = x0[:, None] + draw.normal((images, count, elements), 0.03)
    return [x, draw.normal((images, count, elements)), x0]


def brute_force(x: Tensor, score: Tensor, bandwidth: float | str, score_scale: float | str) -> Tensor:
    """phi of one image's particles [n, D], term by term."""
    count = len(x)
    if bandwidth == "median":
        distances = sorted((x[i] - x[j]).norm().item() for i in range(count) for j in range(i))
        median = distances[(len(distances) - 1) // 2] if distances else 0.0
        precision = 2 * math.log(count + 1) / median**2 if median > 0 else 0.0
    else:
        precision = 1 / bandwidth**2
    attraction, repulsion = torch.zeros_like(x), torch.zeros_like(x)
    for i in range(count):
        for j in range(count):
            kernel = math.exp(-0.5 * precision * (x[i] - x[j]).square().sum().item())
            attraction[i] += kernel * score[j] / count
            repulsion[i] += kernel * (x[i] - x[j]) * precision / count
    if score_scale == "rms":
        pull, push = attraction.square().mean().sqrt().item(), repulsion.square().mean().sqrt().item()
        score_scale = push / pull if push > 0 and pull > 0 else 1.0
    return score_scale * attraction + repulsion


@pytest.mark.parametrize("score_scale", [1.0, 0.3, -2.0, 0.0, "rms"])
@pytest.mark.parametrize("bandwidth", ["median", 0.05, 3.0])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_formula(count, bandwidth, score_scale, backend):
    x, score, x0 = particles(count=count)
    keywords = {"bandwidth": bandwidth, "score_scale": score_scale}
    phi = torch.stack([brute_force(x[i], score[i], **keywords) for i in range(2)])
    length = phi.norm(dim=2, keepdim=True)
    expected = {
        "raw": 0.1 * phi,
        "sign": 0.1 * phi.sign(),
        "l2": 0.1 * torch.where(length > 0, phi / length, 0),
    }
    for update, step in expected.items():
        moved = fastadv.svgd_step(x, score, x0, step_size=0.1, update=update, **FREE, **keywords)
        torch.testing.assert_close(moved, x + step, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("update", ["sign", "l2", "raw"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_particles_are_projected_onto_their_image(norm, update, backend):
    x, score, x0 = particles(images=3)
    keywords: dict[str, Any] = {"update": update, "score_scale": "rms"}
    eps, size = torch.tensor([0.02, 0.0, 0.3]).double(), torch.tensor([0.1, 0.1, -0.2]).double()
    free = fastadv.svgd_step(x, score, x0, step_size=size, **FREE, **keywords)
    expected = torch.stack([fastadv.project(free[:, k], x0, eps=eps, norm=norm) for k in range(4)], 1)
    moved = fastadv.svgd_step(x, score, x0, eps=eps, step_size=size, norm=norm, **keywords)
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
    assert (free - expected).abs().max() > 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_balls_and_box_hold_in_float32(norm, backend):
    x, score, x0 = particles(elements=300, dtype=torch.float32)
    eps = 0.01 if norm == "linf" else 0.1
    moved = fastadv.svgd_step(x, score, x0, eps=eps, step_size=1.0, norm=norm)
    delta = moved.double() - x0[:, None].double()
    distance = delta.abs().amax(2) - 2.0**-24 if norm == "linf" else delta.norm(dim=2)
    assert (distance <= eps * (1 + 4 * 2.0**-23)).all()
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_images_do_not_interact(backend):
    x, score, x0 = particles(images=3, dtype=torch.float32)
    before = fastadv.svgd_step(x, score, x0, eps=0.1, step_size=0.01, update="raw", score_scale="rms")
    x[1:], score[1:], x0[1:] = 0.9 * x[1:], -score[1:], 0.9 * x0[1:]
    after = fastadv.svgd_step(x, score, x0, eps=0.1, step_size=0.01, update="raw", score_scale="rms")
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1:], before[1:])
    alone = fastadv.svgd_step(x[:1], score[:1], x0[:1], eps=0.1, step_size=0.01, update="raw", score_scale="rms")
    assert torch.equal(alone[0], before[0])


def test_particles_of_an_image_do_interact(backend):
    x, score, x0 = particles()
    before = fastadv.svgd_step(x, score, x0, step_size=0.01, update="raw", **FREE)
    x[0, 3] += 0.01
    after = fastadv.svgd_step(x, score, x0, step_size=0.01, update="raw", **FREE)
    assert (after[0, :3] != before[0, :3]).any(1).all()
    assert torch.equal(after[1], before[1])


def test_the_order_of_particles_does_not_matter(backend):
    x, score, x0 = particles(count=5)
    order = [3, 0, 4, 1, 2]
    for score_scale in (1.0, "rms"):
        keywords: dict[str, Any] = {"step_size": 0.01, "update": "raw", "score_scale": score_scale, **FREE}
        moved = fastadv.svgd_step(x, score, x0, **keywords)
        permuted = fastadv.svgd_step(x[:, order], score[:, order], x0, **keywords)
        torch.testing.assert_close(permuted, moved[:, order], rtol=1e-12, atol=1e-12)


def test_one_particle_only_follows_its_score(backend):
    x, score, x0 = particles(count=1)
    for bandwidth in ("median", 0.1):
        for score_scale, factor in ((1.0, 1.0), (0.5, 0.5), ("rms", 1.0)):
            keywords: dict[str, Any] = {"bandwidth": bandwidth, "score_scale": score_scale}
            moved = fastadv.svgd_step(x, score, x0, step_size=0.1, update="raw", **FREE, **keywords)
            torch.testing.assert_close(moved, x + 0.1 * factor * score)


def test_no_particles(backend):
    x, score, x0 = particles()
    assert fastadv.svgd_step(x[:, :0], score[:, :0], x0, eps=0.1, step_size=0.1).shape == (2, 0, 12)


def test_particles_of_no_elements(backend):
    x, score, x0 = (t[..., :0] for t in particles())
    assert fastadv.svgd_step(x, score, x0, eps=0.1, step_size=0.1).shape == x.shape


@pytest.mark.parametrize("score_scale", [1.0, "rms"])
def test_coincident_particles_share_their_scores_and_stay_together(score_scale, backend):
    x, score, x0 = particles()
    x = x[:, :1].expand_as(x)
    for bandwidth in ("median", 0.1):
        moved = fastadv.svgd_step(
            x, score, x0, step_size=0.1, update="raw", bandwidth=bandwidth, score_scale=score_scale, **FREE
        )
        torch.testing.assert_close(moved, x + 0.1 * score.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("bandwidth", "count"), [("median", 3), ("median", 4), ("median", 5), ("median", 9), (0.02, 3), (0.02, 4)]
)
def test_nothing_repels_in_coordinates_in_which_particles_coincide(bandwidth, count, backend):
    """Away from x0, as on the border of a ball: of rounding a step by sign would make a whole step."""
    draw = Draw(torch.float32, seed=14)
    x0 = draw.pixels((2, 96))
    x = (x0 + 8 / 255)[:, None].repeat(1, count, 1)
    if bandwidth != "median":
        # Every other particle is so far off that the kernel is zero between them.
        x[:, 1::2] += 1.0
    x[:, :, ::8] += draw.normal((2, count, 12), 0.01)
    same = torch.arange(96) % 8 != 0
    moved = fastadv.svgd_step(x, torch.zeros_like(x), x0, step_size=0.01, bandwidth=bandwidth, **FREE)
    assert torch.equal(moved[:, :, same], x[:, :, same])
    assert (moved != x).any()


# Triton's interpreter warns of the difference of infinities.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_an_undefined_distance_leaves_no_median(backend):
    """Two of eight are infinite in one coordinate: most distances are finite, but one is NaN, and so is the median."""
    x, score, x0 = particles(images=2, count=8, dtype=torch.float32)
    x[0, [2, 7], 5] = math.inf
    keywords: dict[str, Any] = {"step_size": 0.01, "update": "raw", **FREE}
    moved = fastadv.svgd_step(x, score, x0, **keywords)
    with fastadv.use_backend("reference"):
        expected = fastadv.svgd_step(x, score, x0, **keywords)
    assert expected[0].isnan().all()
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6, equal_nan=True)


def test_a_zero_median_flattens_the_kernel(backend):
    """Three of four coincide: the lower median of six distances is zero, though not all are."""
    x, score, x0 = particles()
    x[:, 1:3] = x[:, :1]
    moved = fastadv.svgd_step(x, score, x0, step_size=0.1, update="raw", **FREE)
    torch.testing.assert_close(moved, x + 0.1 * score.mean(1, keepdim=True))


@pytest.mark.parametrize("score_scale", [1.0, "rms"])
def test_a_zero_score_leaves_repulsion(score_scale, backend):
    x, score, x0 = particles()
    score.zero_()
    moved = fastadv.svgd_step(x, score, x0, step_size=0.1, update="raw", score_scale=score_scale, **FREE)
    repulsion = torch.stack([brute_force(x[i], score[i], "median", 1.0) for i in range(2)])
    torch.testing.assert_close(moved, x + 0.1 * repulsion)
    before, after = (torch.cdist(y, y).sum() for y in (x, moved))
    assert after > before


def test_rms_balances_each_image_by_itself(backend):
    """However large the score, both terms weigh the same, so that the step does not depend on it."""
    x, score, x0 = particles()
    keywords: dict[str, Any] = {"step_size": 0.1, "update": "raw", "score_scale": "rms", **FREE}
    moved = fastadv.svgd_step(x, score, x0, **keywords)
    score[0] *= 1e6
    torch.testing.assert_close(fastadv.svgd_step(x, score, x0, **keywords), moved)


# Products of scores such as a sure network's overflow or are zero; powers of two, which change no digit. Triton's
# interpreter warns of what overflows.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("elements", [12, 3000])
@pytest.mark.parametrize("exponent", [-120, -64, 64, 120])
def test_rms_balances_scores_whose_products_no_number_holds(exponent, elements, backend):
    x, score, x0 = particles(elements=elements, dtype=torch.float32)
    score[1] *= 2.0**exponent
    keywords: dict[str, Any] = {"step_size": 0.1, "update": "raw", "score_scale": "rms", **FREE}
    moved = fastadv.svgd_step(x, score, x0, **keywords)
    score[1] *= 2.0**-exponent
    torch.testing.assert_close(moved, fastadv.svgd_step(x, score, x0, **keywords))


def test_scores_that_are_all_but_zero_leave_finite_particles(backend):
    x, score, x0 = particles(dtype=torch.float32)
    moved = fastadv.svgd_step(x, 2.0**-145 * score, x0, step_size=0.1, update="raw", score_scale="rms", **FREE)
    assert moved.isfinite().all()


@pytest.mark.parametrize("score_scale", [1.0, "rms"])
@pytest.mark.parametrize("update", ["sign", "l2", "raw"])
def test_nan_in_a_score_is_treated_as_the_reference_treats_it(update, score_scale, backend):
    x, score, x0 = particles(dtype=torch.float32)
    score[0, 1, 5] = math.nan
    keywords: dict[str, Any] = {"eps": 0.1, "step_size": 0.01, "update": update, "score_scale": score_scale}
    moved = fastadv.svgd_step(x, score, x0, **keywords)
    with fastadv.use_backend("reference"):
        expected = fastadv.svgd_step(x, score, x0, **keywords)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6, equal_nan=True)
    assert moved[1].isfinite().all()
    assert (moved[1] != x[1]).any()
    if update != "raw":
        # Nothing moves by a NaN.
        assert torch.equal(moved[0, :, 5], fastadv.project(x[0], x0[0].expand(4, 12), eps=0.1)[:, 5])


def test_direct_distances_of_close_particles(backend):
    """By way of products, distances of 1e-6 between particles of norm 1 would drown in rounding."""
    _, score, x0 = particles(elements=100, dtype=torch.float32)
    close = x0[:, None] + 1e-6 * Draw(torch.float32).normal((2, 4, 100))
    score.zero_()
    moved = fastadv.svgd_step(close, score, x0, step_size=1.0, update="l2", **FREE)
    phi = torch.stack([brute_force(close[i].double(), score[i].double(), "median", 1.0) for i in range(2)])
    direction = phi / phi.norm(dim=2, keepdim=True)
    cosine = ((moved - close).double() * direction).sum(2)
    assert cosine.min() > 0.999


def test_a_narrow_kernel_leaves_no_rounding_to_repel(backend):
    """Off-diagonal entries are tiny, where "rms" would scale the attraction to whatever rounding remains."""
    draw = Draw(torch.float64)
    x0 = draw.pixels((1, 600))
    particles, score = x0[:, None] + draw.normal((1, 5, 600), 0.02), draw.normal((1, 5, 600))
    expected = brute_force(particles[0], score[0], 0.08, "rms")
    # So long a step that it shows against the pixels.
    size = 1 / float(expected.abs().max())
    keywords = {"eps": 9.0, "step_size": size, "bounds": None, "bandwidth": 0.08, "update": "raw", "score_scale": "rms"}
    moved = fastadv.svgd_step(particles, score, x0, **keywords) - particles
    torch.testing.assert_close(moved[0], size * expected, rtol=1e-6, atol=1e-9)
