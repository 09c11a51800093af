"""svgd, variant "released", against the formulas of the published code written out row by row."""

import pytest
import torch
from torch import Tensor, nn

import fastadv
from fastadv.attacks import svgd
from fastadv.attacks.methods.tald_released import stein_direction


def unit(x: Tensor) -> Tensor:
    x = x / (x.abs().max() + 1e-12)
    return x / (x.square().sum() + 1e-6).sqrt()


def transcription(model: nn.Module, x: Tensor, *, n: int, eps: float, sigma: float, seed: int) -> Tensor:
    rows = x.repeat_interleave(n, 0)
    ids = torch.arange(len(x))[:, None] + (torch.arange(n) << 32)
    noise = fastadv.random_start(torch.zeros_like(rows), eps=0.5, bounds=None, seed=seed, sample_ids=ids.flatten())
    d = torch.stack([unit(row) for row in noise]).requires_grad_()
    clean = torch.softmax(model(rows), 1).detach()
    change = ((torch.softmax(model(rows + 10 * d), 1) - clean) ** 2).mean()
    (score,) = torch.autograd.grad(change, d)
    kernel = torch.stack(
        [torch.stack([torch.exp(-((a - b.detach()) ** 2).sum() / (1e-8 + 2 * sigma**2)) for b in d]) for a in d]
    )
    (slope,) = torch.autograd.grad(kernel.sum(), d)
    kernel = kernel.detach()
    phi = [(sum(kernel[i, j] * score[j] for j in range(len(d))) - slope[i]) / len(d) for i in range(len(d))]
    r = torch.stack([eps * unit(row) for row in phi])
    return (rows + r).clamp(0, 1).view(len(x), n, *x.shape[1:])


@pytest.mark.parametrize(("n", "sigma"), [(1, "median"), (3, "median"), (3, 0.5)])
def test_equals_the_formulas(network, images, n, sigma):
    model, x = network.double().eval(), images.double()
    expected = transcription(model, x, n=n, eps=0.3, sigma=10.0 ** (1 - n) if sigma == "median" else sigma, seed=4)
    found = svgd(model, x, eps=0.3, particles=n, seed=4, bandwidth=sigma, variant="released")
    torch.testing.assert_close(found, expected)


def test_rows_do_not_interact_at_the_published_sigma():
    noise = torch.rand(40, 3072) - 0.5
    directions, score = noise / noise.norm(dim=1, keepdim=True), torch.randn(40, 3072)
    assert not stein_direction(directions, torch.zeros_like(score), 1e-3).any()
    assert torch.equal(stein_direction(directions, score, 1e-3), score / 40)
    assert stein_direction(directions, torch.zeros_like(score), 0.5).any()


def test_the_direction_is_that_of_the_score_under_autocast(network, images):
    """What a row's own repulsion leaves of two products in bfloat16 would be far more than the score."""
    network.eval()
    exact = svgd(network, images, eps=0.5, bounds=None, seed=0, variant="released")
    with torch.autocast("cpu", torch.bfloat16):
        found = svgd(network, images, eps=0.5, bounds=None, seed=0, variant="released")
    moved, expected = ((each - images[:, None]).flatten(2) for each in (found, exact))
    assert torch.cosine_similarity(moved, expected, dim=2).min() > 0.9


def test_lengths_and_bounds(network, images):
    eps = torch.tensor([0.0, 5e-4, 1e-2, 0.1, 0.5, 1.0])
    particles = svgd(network, images, eps=eps, bounds=None, seed=0, variant="released")
    length = (particles - images[:, None]).flatten(2).norm(dim=2)
    torch.testing.assert_close(length, eps[:, None].expand(6, 4), atol=1e-6, rtol=1e-5)
    more_steps = svgd(network, images, eps=eps, bounds=None, seed=0, steps=3, variant="released")
    assert torch.equal(particles, more_steps)
    clamped = svgd(network, images, eps=eps, bounds=(0.2, 0.7), seed=0, variant="released", check=False)
    assert torch.equal(clamped, particles.clamp(0.2, 0.7))
    assert not torch.equal(particles, svgd(network, images, eps=eps, bounds=None, seed=1, variant="released"))


def test_one_network_only(network, images):
    with pytest.raises(ValueError, match="model must be one network for variant 'released'"):
        svgd([network, network], images, eps=0.1, variant="released")
