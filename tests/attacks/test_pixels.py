"""Pixels one by one: masks, radii and boxes of their own, images of 8 bits, and models that draw random numbers."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from fastadv.attacks import APGD, PGD, apgd, fgsm, mi_fgsm, pgd, svgd

ATTACKS = [fgsm, pgd, mi_fgsm, apgd, svgd]
EPS = {"linf": 0.1, "l2": 0.7, "l1": 4.0}
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
by_norm = pytest.mark.parametrize("norm", EPS)
by_attack = pytest.mark.parametrize("attack", ATTACKS)


def moved(found, x):
    """Differences from x, [N, copies, ...]."""
    return found.view(len(x), -1, *x.shape[1:]) - x[:, None]


def lengths(found, x, norm):
    return moved(found, x).double().flatten(2).norm(dim=2, p=ORDER[norm])


@by_norm
@by_attack
def test_only_what_the_mask_frees_moves(attack, norm, network, images, labels):
    own = torch.rand(6, 1, 6, 6) > 0.5
    for mask in (torch.arange(36).view(6, 6) % 3 == 0, own, torch.tensor([True, False, True]).view(3, 1, 1)):
        how = {} if attack is svgd else {"restarts": 2, "random_start": True}
        found = attack(network, images, labels, eps=EPS[norm], norm=norm, mask=mask, seed=0, **how)
        free = mask.expand_as(images)[:, None].expand_as(moved(found, images))
        assert (moved(found, images)[~free] == 0).all()
        assert (moved(found, images)[free] != 0).any()
        assert (lengths(found, images, norm) <= EPS[norm] * (1 + 1e-5)).all()
    everywhere = attack(network, images, labels, eps=EPS[norm], norm=norm, seed=0, mask=torch.tensor(True))
    assert torch.equal(everywhere, attack(network, images, labels, eps=EPS[norm], norm=norm, seed=0))


def test_a_wrong_mask_is_named(network, images, labels):
    with pytest.raises(TypeError, match=r"mask must be a bool tensor, got torch\.float32"):
        pgd(network, images, labels, eps=0.1, mask=torch.ones(6, 6))
    with pytest.raises(ValueError, match=r"mask must broadcast to the images \[6, 3, 6, 6\], got \[5, 5\]"):
        pgd(network, images, labels, eps=0.1, mask=torch.ones(5, 5) > 0)
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        PGD(eps=0.1, mask=3)


@pytest.mark.parametrize("attack", [fgsm, pgd, mi_fgsm, apgd])
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 6, 6), (6, 1, 1, 1), (6, 3, 6, 6)])
def test_a_radius_for_each_channel_or_pixel(attack, shape, network, images, labels):
    eps = 0.02 + 0.1 * torch.rand(shape)
    for how in ({}, {"restarts": 2, "random_start": True}):
        found = attack(network, images, labels, eps=eps, seed=0, **how)
        assert ((found - images).abs() <= eps + 2.0**-23).all()
        assert ((found - images).abs() > 0.9 * eps).float().mean() > 0.3
    same = torch.full(shape, 0.1)
    torch.testing.assert_close(
        attack(network, images, labels, eps=same, seed=0), attack(network, images, labels, eps=0.1, seed=0)
    )
    for norm in ("l2", "l1"):
        if shape != (6, 1, 1, 1):
            with pytest.raises(ValueError, match="eps must be a float or have shape"):
                attack(network, images, labels, eps=eps, norm=norm)


def test_a_step_for_each_channel(network, images, labels):
    step_size = torch.tensor([0.05, 0.0, 0.02]).view(3, 1, 1)
    found = pgd(network, images, labels, eps=0.1, step_size=step_size, steps=1, random_start=False, bounds=None)
    assert torch.equal((found - images)[:, 1], torch.zeros(6, 6, 6))
    assert torch.allclose((found - images)[:, 2].abs().amax((1, 2)), torch.tensor(0.02))
    with pytest.raises(ValueError, match="step_size must be a float or have shape"):
        apgd(network, images, labels, eps=0.1, step_size=step_size)


def test_the_objects_take_what_the_functions_take(network, images, labels):
    eps = torch.tensor([0.1, 0.05, 0.02]).view(3, 1, 1)
    how = {"eps": eps, "mask": torch.rand(6, 6) > 0.5, "eot": 2, "check": True, "seed": 0}
    assert torch.equal(PGD(**how)(network, images, labels), pgd(network, images, labels, **how))
    assert torch.equal(APGD(**how)(network, images, labels), apgd(network, images, labels, **how))


@by_norm
@by_attack
def test_images_of_8_bits_stay_so_and_in_the_ball(attack, norm, network, images, labels):
    x = (images * 255).round() / 255
    for eps in (EPS[norm], EPS[norm] / 20):
        found = attack(network, x, labels, eps=eps, norm=norm, quantize=True, seed=0)
        assert torch.equal((found * 255).round() / 255, found)
        assert found.min() >= 0
        assert found.max() <= 1
        length = lengths(found, x, norm)
        assert (length <= eps + (2.0**-23 if norm == "linf" else 1e-6)).all()
        # What is lost is less than a level of a pixel, where the attack itself goes to the edge of the ball.
        free = lengths(attack(network, x, labels, eps=eps, norm=norm, seed=0), x, norm)
        assert (length >= free - 1.5 / 255 * (1 if norm != "l1" else 2)).all()


def test_8_bits_need_images_of_8_bits(network, images, labels):
    for attack in ATTACKS:
        with pytest.raises(ValueError, match="x must lie on the grid k / 255 for quantize=True"):
            attack(network, images, labels, eps=0.1, quantize=True)
    x = (images * 255).round() / 255
    with pytest.raises(ValueError, match="bounds must lie on the grid"):
        pgd(network, x, labels, eps=0.1, quantize=True, bounds=(-0.001, 1.0))


class Noisy(nn.Module):
    """Logits that depend on random numbers, in eval mode too."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x):
        self.calls += 1
        return self.network(x + torch.randn_like(x))


@by_attack
def test_the_expectation_over_transformations(attack, network, images, labels):
    noisy = Noisy(network)
    attack(noisy, images, labels, eps=0.1)
    once, noisy.calls = noisy.calls, 0
    attack(noisy, images, labels, eps=0.1, eot=3)
    assert noisy.calls == 3 * once
    assert torch.equal(
        attack(network, images, labels, eps=0.1, seed=0, eot=3), attack(network, images, labels, eps=0.1, seed=0)
    )
    with pytest.raises(ValueError, match="eot must be at least 1, got 0"):
        attack(network, images, labels, eps=0.1, eot=0)


class InTurn(nn.Module):
    """The logits of one network, then of the other, and so on."""

    def __init__(self, *networks):
        super().__init__()
        self.networks, self.calls = nn.ModuleList(networks), 0

    def forward(self, x):
        self.calls += 1
        return self.networks[self.calls % len(self.networks)](x)


@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_the_mean_of_gradients_is_that_of_the_loss_itself(loss, network, images, labels):
    """Forwards of which one is sure and one is not: what either is scaled by for itself does not count."""
    unsure, sure = network.double().eval(), copy.deepcopy(network)
    sure[5].weight.data *= -8.0
    x, y, reference = images.double(), labels, torch.randn(6, 5, dtype=torch.float64)
    of = {
        "ce": lambda z: cross_entropy(z, y, reduction="sum"),
        "kl": lambda z: kl_div(z.log_softmax(1), reference.softmax(1), reduction="sum"),
    }[loss]
    leaf = x.clone().requires_grad_()
    grads = [torch.autograd.grad(of(net(leaf)), leaf)[0] for net in (unsure, sure)]
    assert (grads[0].sign() != (grads[0] + grads[1]).sign()).any()
    expected = x + 0.01 * (grads[0] + grads[1]).sign()
    given = {"reference": reference} if loss == "kl" else {"y": y}
    found = fgsm(InTurn(unsure, sure), x, eps=0.01, bounds=None, eot=2, loss=loss, **given)
    torch.testing.assert_close(found, expected)


def test_an_averaged_gradient_is_nearer_to_the_expected_one(network, images, labels):
    noisy, network = Noisy(network), network.eval()
    torch.manual_seed(0)
    ways = [fgsm(noisy, images, labels, eps=0.01, bounds=None, eot=eot) - images for eot in (1, 64, 256)]
    assert (ways[1] == ways[2]).float().mean() > (ways[0] == ways[2]).float().mean() + 0.1
