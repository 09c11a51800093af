"""The random numbers of a method: their distributions, their streams, and that nothing global is touched."""

import math

import pytest
import torch

from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.distill.parts import noise

LIKE = torch.zeros(1)


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
    drawn = noise.symmetric_beta(40_000, alpha, seed=1, stream=2, like=LIKE).double().sort().values
    below = (torch.arange(40_000) + 0.5) / 40_000
    # One sample in a thousand deviates by more than 1.95 / sqrt(n) (Kolmogorov).
    assert (distribution(drawn) - below).abs().max() < 1.95 / 200


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 100.0, 1e6])
def test_symmetric_beta_of_any_alpha(alpha):
    drawn = noise.symmetric_beta(40_000, alpha, seed=1, stream=noise.APART, like=LIKE)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    torch.testing.assert_close(drawn.double().var(), torch.tensor(variance).double(), rtol=0.03, atol=0)


def test_normal_has_its_distribution():
    drawn = noise.normal(400, 100, seed=1, stream=0, like=LIKE).flatten().double().sort().values
    assert drawn.isfinite().all()
    below = (torch.arange(40_000) + 0.5) / 40_000
    assert (torch.special.ndtr(drawn) - below).abs().max() < 1.95 / 200


def test_uniform_reaches_neither_end_nor_zero(monkeypatch):
    monkeypatch.setattr(noise, "random_start", lambda *_, **__: torch.tensor([-1.0, 0.0, 1 - 2.0**-23]))
    ends = noise.uniform(1, 3, seed=0, stream=0, like=LIKE)
    assert ends.tolist() == [-1 + 2.0**-24, 2.0**-24, 1 - 2.0**-24]
    assert noise.normal(1, 3, seed=0, stream=0, like=LIKE).isfinite().all()


def test_seed_and_stream_decide():
    first, same, other_seed, other_stream = (
        noise.normal(20, 50, seed=seed, stream=stream, like=LIKE)
        for seed, stream in [(7, 0), (torch.tensor(7), 0), (8, 0), (7, 1)]
    )
    assert torch.equal(first, same)
    for other in (other_seed, other_stream):
        assert torch.corrcoef(torch.stack((first.flatten(), other.flatten())))[0, 1].abs() < 0.1


def test_precision_and_random_state():
    before = torch.get_rng_state()
    drawn = [noise.uniform(4, 5, seed=3, stream=1, like=LIKE.to(dtype)) for dtype in (torch.float64, torch.bfloat16)]
    assert torch.equal(torch.get_rng_state(), before)
    assert [each.dtype for each in drawn] == [torch.float64, torch.float32]
    assert torch.equal(drawn[0].float(), drawn[1])


def test_identities_decide_in_any_order():
    ids = torch.tensor([4, 0, 2])
    drawn = noise.uniform(ids, 6, seed=3, stream=1, like=LIKE)
    assert torch.equal(drawn, noise.uniform(5, 6, seed=3, stream=1, like=LIKE)[ids])


def test_numbers_apart_share_nothing_with_an_attack():
    centre = torch.zeros(20, 50)
    attack, apart = (
        Ball(eps=1.0, bounds=None).random_rows(centre, 2, Noise(seed=3))[::2],
        noise.uniform(20, 50, seed=3, stream=noise.APART, like=LIKE),
    )
    first = noise.uniform(20, 50, seed=3, stream=0, like=LIKE)
    torch.testing.assert_close(attack, first, atol=2.0**-23, rtol=0)
    assert torch.corrcoef(torch.stack((attack.flatten(), apart.flatten())))[0, 1].abs() < 0.1
