"""The random numbers of a method: their distributions, their streams, and that nothing global is touched."""

import math

import pytest
import torch

from fastadv.distill import draw

IDS = torch.arange(40_000)


@pytest.mark.parametrize(
    ("alpha", "distribution"),
    [
        (0.5, lambda x: 2 / math.pi * x.sqrt().asin()),
        (1.0, lambda x: x),
        (2.0, lambda x: 3 * x**2 - 2 * x**3),
        (3.0, lambda x: 10 * x**3 - 15 * x**4 + 6 * x**5),
    ],
)
def test_symmetric_beta_has_its_distribution(alpha, distribution):
    drawn = draw.symmetric_beta(IDS, alpha, seed=1).double().sort().values
    below = (torch.arange(40_000) + 0.5) / 40_000
    # One sample in a thousand deviates by more than 1.95 / sqrt(n) (Kolmogorov).
    assert (distribution(drawn) - below).abs().max() < 1.95 / 200


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 100.0, 1e6])
def test_symmetric_beta_of_any_alpha(alpha):
    drawn = draw.symmetric_beta(IDS, alpha, seed=1)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    torch.testing.assert_close(drawn.double().var(), torch.tensor(variance).double(), rtol=0.03, atol=0)


def test_normal_has_its_distribution():
    drawn = draw.normal(IDS[:400], 100, seed=1).flatten().double().sort().values
    assert drawn.isfinite().all()
    below = (torch.arange(40_000) + 0.5) / 40_000
    assert (torch.special.ndtr(drawn) - below).abs().max() < 1.95 / 200


def test_normal_is_finite_where_uniform_ends(monkeypatch):
    monkeypatch.setattr(draw, "uniform", lambda *_, **__: torch.tensor([[0.0, 0.5, 1 - 2.0**-24]]))
    ends = draw.normal(IDS[:1], 3, seed=0)
    assert ends.isfinite().all()
    assert (ends != 0).all()
    assert ends[0, 0] == -ends[0, 2]


def test_seed_and_id_decide():
    first, same, other_seed, other_ids = (
        draw.normal(IDS[:20] + first, 50, seed=seed)
        for seed, first in [(7, 0), (torch.tensor(7), 0), (8, 0), (7, 1 << 32)]
    )
    assert torch.equal(first, same)
    for other in (other_seed, other_ids):
        assert torch.corrcoef(torch.stack((first.flatten(), other.flatten())))[0, 1].abs() < 0.1


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draw.normal(IDS[:3], 5, seed=3)
    draw.symmetric_beta(IDS[:3], 0.7, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
