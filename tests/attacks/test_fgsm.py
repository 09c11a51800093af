"""fgsm against its formula."""

import pytest
import torch
from torch.nn.functional import cross_entropy

import fastadv
from fastadv.attacks import fgsm, pgd


def gradient(network, x, labels):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(network(leaf), labels, reduction="sum"), leaf)[0]


def test_equals_the_formula(network, images, labels):
    network.eval()
    expected = (images + 0.1 * gradient(network, images, labels).sign()).clamp(0, 1)
    assert torch.equal(fgsm(network, images, labels, eps=0.1, mode="sequential"), expected)
    torch.testing.assert_close(fgsm(network, images, labels, eps=0.1), expected)


def test_l2_moves_by_the_radius(network, images, labels):
    moved = fgsm(network, images, labels, eps=0.3, norm="l2", bounds=None) - images
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full([6], 0.3))


def test_random_start_with_a_longer_step(network, images, labels):
    network.eval()
    start = fastadv.random_start(images, eps=0.1, seed=4)
    expected = fastadv.pgd_step(start, gradient(network, start, labels), images, eps=0.1, step_size=0.125)
    found = fgsm(network, images, labels, eps=0.1, step_size=0.125, random_start=True, seed=4)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("options", [{"targeted": True}, {"loss": "kl", "random_start": True}, {"restarts": 3}])
def test_is_one_step_of_pgd(network, images, labels, options):
    eps = torch.linspace(0, 0.2, 6)
    one_step = {"random_start": False, "step_size": eps, "steps": 1, "seed": 2} | options
    y = () if options.get("loss") == "kl" else (labels,)
    assert torch.equal(
        fgsm(network, images, *y, eps=eps, seed=2, **options), pgd(network, images, *y, eps=eps, **one_step)
    )
