"""vat against the Hessian it is about, and where finite differences fail."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, softmax

from fastadv.attacks import vat
from fastadv.attacks.loop.objective import divergence_direction


def divergence(network, x, moved):
    with torch.no_grad():
        p, q = log_softmax(network(x), 1), log_softmax(network(moved), 1)
    return kl_div(q, p, reduction="none", log_target=True).sum(1)


def dominant(network, x):
    """The dominant eigenvector of J' (diag p - p p') J, the Hessian of the divergence, a row."""
    vectors = []
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda r: network(r[None])[0], row).flatten(1)
        p = softmax(network(row[None])[0], 0).detach()
        hessian = jacobian.T @ (p.diag() - p[:, None] * p) @ jacobian
        vectors.append(torch.linalg.eigh(hessian).eigenvectors[:, -1])
    return torch.stack(vectors)


def test_finds_the_dominant_eigenvector(network, images):
    network, x = network.eval().double(), images.double()
    r = (vat(network, x, eps=1.0, steps=100, seed=0) - x).flatten(1)
    torch.testing.assert_close(r.norm(dim=1), torch.ones(6).double())
    assert (cosine_similarity(r, dominant(network, x)).abs() > 1 - 1e-6).all()


def test_one_step_is_one_step_of_power_iteration(network, images):
    network, x = network.eval().double(), images.double()
    d = (vat(network, x, eps=1.0, steps=0, seed=5) - x).flatten(1)
    clean = softmax(network(x), 1).detach()
    leaf = d.clone().requires_grad_()
    moved = log_softmax(network(x + 1e-4 * leaf.view_as(x)), 1)
    (grad,) = torch.autograd.grad(kl_div(moved, clean, reduction="sum"), leaf)
    r = (vat(network, x, eps=0.5, seed=5) - x).flatten(1)
    torch.testing.assert_close(r, 0.5 * grad / grad.norm(dim=1, keepdim=True), atol=1e-4, rtol=0)


def test_moves_the_prediction_more_than_noise(network, images):
    network.eval()
    noise = vat(network, images, eps=1.0, steps=0, seed=1)
    assert (
        divergence(network, images, vat(network, images, eps=1.0, seed=1)) > divergence(network, images, noise)
    ).all()


class InFloat32(nn.Module):
    """Answers in float32, in whatever its network computes."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).float()


@pytest.mark.parametrize("autocast", [False, True])
def test_the_difference_is_as_coarse_as_what_the_network_computes_in(network, images, autocast):
    low = network.eval() if autocast else network.eval().bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, found = (vat(each, images, eps=1.0, seed=1) for each in (low, InFloat32(low)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("certainty", [1.0, 30.0, 100.0])
def test_float32_finds_the_direction_of_float64(network, images, certainty):
    """At the published xi differences of float32 images are rounding noise; so are those of saturated probabilities."""
    network.eval()
    with torch.no_grad():
        network[5].weight.mul_(certainty)
    single = vat(network, images, eps=1.0, seed=1) - images
    double = vat(network.double(), images.double(), eps=1.0, seed=1) - images
    assert (cosine_similarity(single.flatten(1), double.flatten(1)) > 0.99).all()


def test_a_large_xi_is_the_gradient_at_that_distance(network, images):
    network, x = network.eval().double(), images.double()
    with torch.no_grad():
        network[5].weight.mul_(100)
    d = vat(network, x, eps=1.0, steps=0, seed=2) - x
    clean = softmax(network(x), 1).detach()
    leaf = (x + 5 * d).requires_grad_()
    (grad,) = torch.autograd.grad(kl_div(log_softmax(network(leaf), 1), clean, reduction="sum"), leaf)
    r = vat(network, x, eps=1.0, xi=5.0, seed=2) - x
    assert (cosine_similarity(r.flatten(1), grad.flatten(1)) > 1 - 1e-9).all()


@pytest.mark.parametrize("logits", [torch.zeros(6, 5), torch.full((6, 5), torch.nan)])
def test_without_a_gradient_the_direction_stays(images, logits):
    def model(x):
        return logits + 0 * x.flatten(1)[:, :5]

    unmoved = vat(model, images, eps=1.0, steps=0, seed=3, check=False)
    assert torch.equal(vat(model, images, eps=1.0, seed=3, check=False), unmoved)


def test_lengths_bounds_and_labels(network, images):
    eps = torch.tensor([0.0, 0.1, 0.2, 0.5, 1.0, 2.0])
    moved = vat(network, images, eps=eps, seed=0)
    length = (moved - images).flatten(1).double().norm(dim=1)
    torch.testing.assert_close(length, eps.double(), atol=1e-6, rtol=1e-5)
    assert torch.equal(moved[0], images[0])
    assert moved.min() < 0
    inside = vat(network, images, eps=eps, seed=0, bounds=(0.0, 1.0))
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert ((inside - images).flatten(1).double().norm(dim=1) <= eps * (1 + 4 * 2.0**-23)).all()
    assert not torch.equal(moved, vat(network, images, eps=eps, seed=1))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eps": -1.0}, ValueError, "eps must not be negative"),
        ({"xi": 0.0}, ValueError, "xi must be positive"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"model": [nn.Flatten()]}, ValueError, "model must be one network, got a sequence"),
        ({"model": nn.Identity()}, ValueError, r"model must give logits \[6, C\], got \[6, 3,"),
    ],
)
def test_bad_arguments_are_named(network, images, change, error, message):
    with pytest.raises(error, match=message):
        vat(**{"model": network, "x": images, "eps": 0.1} | change)


def direction_by_logarithms(network, x, d, xi):
    """The gradient of KL(p(x) || p(x + xi d)) to a factor a row, in float64, from the logarithms of probabilities."""
    network, x = copy.deepcopy(network).double(), x.double()
    leaf = (x + xi * d.double()).requires_grad_()
    logits = network(leaf)
    by_logits, _ = divergence_direction(logits.detach(), network(x).detach())
    (grad,) = torch.autograd.grad(logits, leaf, by_logits)
    return grad.flatten(1)


@pytest.mark.parametrize("gap", [0.0, 10.0, 20.0, 60.0])
def test_the_direction_does_not_fade_where_the_model_is_sure(network, images, gap):
    """The probability of all other classes together falls as exp(-gap), and the logits move as before."""
    network.eval()
    with torch.no_grad():
        network[5].bias[0] += gap
    d = vat(network, images, eps=1.0, steps=0, seed=1) - images
    r = vat(network, images, eps=1.0, xi=0.1, seed=1) - images
    expected = direction_by_logarithms(network, images, d, 0.1)
    assert (cosine_similarity(r.flatten(1).double(), expected) > 0.9999).all()


def test_logits_may_change_by_more_than_an_exponential_holds():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    x = torch.zeros(8, 3, 4, 4)
    with torch.no_grad():
        model[1].weight.normal_().mul_(200)
        model[1].bias.copy_(torch.tensor([5.0, 0.0, 0.0, 1.0, 0.0]))
    d = vat(model, x, eps=1.0, steps=0, seed=1)
    assert (model(d) - model(x)).amax(1).min() > 100
    expected = direction_by_logarithms(model, x, d, 1.0)
    r = vat(model, x, eps=1.0, xi=1.0, seed=1)
    assert (cosine_similarity(r.flatten(1).double(), expected) > 0.9999).all()
