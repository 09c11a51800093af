"""Networks in half precision: the threat model of float32, and gradients that survive."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from fastadv.attacks import apgd, fgsm, freeze, mi_fgsm, pgd, svgd, vat
from fastadv.attacks.loop.objective import Goal, Objective
from fastadv.attacks.model.networks import KeepMode, Networks

half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
EPS = 8 / 255


@pytest.fixture(params=["converted", "frozen", "autocast"])
def in_half(request, network, dtype):
    """The network in ``dtype`` in each of the ways it can get there, and the context it is attacked in."""
    network.eval()
    if request.param == "autocast":
        return network, lambda: torch.autocast("cpu", dtype)
    return (network.to(dtype) if request.param == "converted" else freeze(network, dtype=dtype)), contextlib.nullcontext


@half
@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        pytest.param(lambda *a: pgd(*a, eps=EPS), "linf", id="pgd"),
        pytest.param(lambda *a: pgd(*a, eps=EPS, mode="sequential", restarts=2, best=True), "linf", id="sequential"),
        pytest.param(lambda *a: pgd(*a, eps=EPS, norm="l2"), "l2", id="pgd l2"),
        pytest.param(lambda *a: fgsm(*a, eps=EPS), "linf", id="fgsm"),
        pytest.param(lambda *a: mi_fgsm(*a, eps=EPS), "linf", id="mi_fgsm"),
        pytest.param(lambda *a: mi_fgsm(*a, eps=EPS, norm="l2"), "l2", id="mi_fgsm l2"),
        pytest.param(lambda *a: apgd(*a, eps=EPS), "linf", id="apgd"),
        pytest.param(lambda *a: apgd(*a, eps=EPS, norm="l2", loss="dlr", restarts=2), "l2", id="apgd l2"),
        pytest.param(lambda *a: apgd(*a, eps=100 * EPS, norm="l1"), "l1", id="apgd l1"),
        pytest.param(lambda *a: svgd(*a, eps=EPS, particles=2)[:, 1], "linf", id="svgd"),
        pytest.param(lambda *a: svgd(*a, eps=EPS, particles=2, norm="l2")[:, 1], "l2", id="svgd l2"),
        pytest.param(lambda model, x, y: vat(model, x, eps=EPS, bounds=(0.0, 1.0)), "l2", id="vat"),
    ],
)
def test_ball_and_box_hold_in_float32(attack, norm, dtype, in_half, images, labels):
    network, context = in_half
    with context():
        x = attack(network, images, labels)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 1
    moved = (x.double() - images.double()).flatten(1)
    if norm == "linf":
        assert moved.abs().max() <= EPS + 2.0**-24  # half a unit in the last place of a pixel near one
    else:
        order, eps = (1, 100 * EPS) if norm == "l1" else (2, EPS)
        assert (moved.norm(order, dim=1) <= eps * (1 + 4 * 2.0**-23)).all()
    assert moved.abs().amax(1).min() > 0


@half
def test_images_in_half_precision_are_taken_as_they_are(dtype, in_half, images, labels):
    network, context = in_half
    with context():
        x = pgd(network, images.to(dtype), labels, eps=EPS, seed=0)
        expected = pgd(network, images.to(dtype).float(), labels, eps=EPS, seed=0)
    assert torch.equal(x, expected)
    assert (x - images.to(dtype).float()).abs().max() <= EPS + 2.0**-24


class Sure(nn.Module):
    """``network`` with the logits of classes ``y`` raised by ``margin``."""

    def __init__(self, network, y, margin):
        super().__init__()
        self.network = network
        self.raised = margin * one_hot(y, 5)

    def forward(self, x):
        logits = self.network(x)
        return logits + self.raised.to(logits.dtype)


def gradient(network, x, y):
    """The gradient of the cross-entropy itself, which attacks climb where a network keeps its mode."""
    return Objective(Networks(KeepMode(network), check=False), x, Goal(y)).evaluate(x).grad


@half
@pytest.mark.parametrize("margin", [20.0, 60.0])
def test_gradients_of_saturated_samples_survive(network, images, labels, dtype, margin):
    x, y = images.repeat(200, 1, 1, 1), labels.repeat(200)  # a mean over them would take another factor of 1200
    found = gradient(Sure(freeze(network.eval(), dtype=dtype), y, margin), x, y)
    assert found.dtype == torch.float32
    exact = gradient(Sure(network, y, margin), x, y)
    assert exact.abs().max() < 6e-8  # float16 holds nothing below
    # Logits of 60 are rounded to 1/32 in float16 and to 1/4 in bfloat16, and gradients are off by as much.
    bound = 0.05 if dtype == torch.float16 else 0.4
    assert ((found - exact).double().flatten(1).norm(dim=1) < bound * exact.double().flatten(1).norm(dim=1)).all()


@half
def test_gradients_have_the_scale_of_float32(network, images, labels, dtype):
    exact = gradient(network.eval(), images, labels)
    found = gradient(freeze(network, dtype=dtype), images, labels)
    bound = 0.01 if dtype == torch.float16 else 0.3
    assert ((found - exact).double().flatten(1).norm(dim=1) < bound * exact.double().flatten(1).norm(dim=1)).all()


def test_a_gradient_of_zero_or_nan_stays_so(images, labels):
    def model(x):
        logits = x.flatten(1)[:, :5].half()
        return torch.cat((logits[:3] * 0, logits[3:] * torch.nan))

    found = gradient(model, images, labels)
    assert (found[:3] == 0).all()
    assert found[3:].flatten(1)[:, :5].isnan().all()


@half
@pytest.mark.parametrize("margin", [0.0, 25.0])
def test_attacks_are_as_strong_as_in_float32(network, images, labels, dtype, margin):
    model = Sure(network.eval(), labels, margin)

    def loss(x):
        with torch.no_grad():
            return cross_entropy(model(x).double(), labels, reduction="none")

    clean, full = loss(images), loss(pgd(model, images, labels, eps=EPS, seed=0))
    found = loss(pgd(Sure(freeze(network, dtype=dtype), labels, margin), images, labels, eps=EPS, seed=0))
    assert ((found - clean) > (0.95 if dtype == torch.float16 else 0.8) * (full - clean)).all()
