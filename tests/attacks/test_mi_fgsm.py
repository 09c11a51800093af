"""mi_fgsm against its formula, pgd and closed-form optima."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastadv.attacks import mi_fgsm, pgd


def gradient(network, x, labels):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(network(leaf), labels, reduction="sum"), leaf)[0]


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("decay", [1.0, 0.6])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equals_the_formula(network, images, labels, norm, decay, restarts):
    network, images = network.eval().double(), images.double()
    eps, step_size = (0.1, 0.05) if norm == "linf" else (2.0, 0.7)
    x, momentum = images, torch.zeros_like(images)
    turned = 0
    for _ in range(5):
        grad = gradient(network, x, labels)
        momentum = decay * momentum + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        turned += (momentum.sign() != grad.sign()).sum()
        if norm == "linf":
            x = (images + (x + step_size * momentum.sign() - images).clamp(-eps, eps)).clamp(0, 1)
        else:
            delta = x + step_size * momentum / momentum.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - images
            x = images + delta * (eps / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)
    bounds = (0.0, 1.0) if norm == "linf" else None
    how = {"eps": eps, "step_size": step_size, "steps": 5, "norm": norm, "decay": decay, "bounds": bounds}
    torch.testing.assert_close(mi_fgsm(network, images, labels, restarts=restarts, **how), x)
    assert turned > 0  # else it was pgd


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_without_memory_it_is_pgd(network, images, labels, norm):
    eps = {"linf": 0.1, "l2": 0.5, "l1": 5.0}[norm]
    how = {"eps": eps, "norm": norm, "seed": 1, "random_start": True, "l1_fraction": 0.3}
    without = mi_fgsm(network.double(), images.double(), labels, decay=0.0, **how)
    torch.testing.assert_close(without, pgd(network, images.double(), labels, **how))
    assert not torch.equal(without, mi_fgsm(network, images.double(), labels, **how))


def test_linf_optimum_of_a_linear_model(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).double()
    x, y = images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = model[1].weight.detach()
    expected = (x + 0.1 * (weight[1 - y] - weight[y]).sign().view_as(x)).clamp(0, 1)
    torch.testing.assert_close(mi_fgsm(model, x, y, eps=0.1), expected, atol=1e-15, rtol=0)


def test_l1_optimum_of_a_linear_model(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).double()
    x, y = images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    uphill = model[1].weight.detach()[1 - y] - model[1].weight.detach()[y]
    largest = uphill.abs().argmax(1, keepdim=True)
    expected = x.flatten(1).scatter_add(1, largest, 0.5 * uphill.gather(1, largest).sign()).view_as(x)
    how = {"eps": 0.5, "norm": "l1", "l1_fraction": 1 / 108, "bounds": None}
    for attack in (pgd, mi_fgsm):
        torch.testing.assert_close(attack(model, x, y, random_start=False, **how), expected)


def test_each_call_has_a_momentum_of_its_own(network, images, labels):
    first, second = (mi_fgsm(network, images, labels, eps=0.1) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"decay": "1"}, TypeError, "decay must be a float, got str"),
        ({"decay": float("nan")}, ValueError, "decay must be a number"),
        ({"l1_fraction": 0}, ValueError, "l1_fraction must lie in"),
        ({"mode": "sequential"}, TypeError, "unexpected keyword argument 'mode'"),
        ({"step_size": torch.ones(2)}, ValueError, r"step_size must be a float or have shape \[6\]"),
    ],
)
def test_bad_arguments_are_named(network, images, labels, change, error, message):
    with pytest.raises(error, match=message):
        mi_fgsm(network, images, labels, **({"eps": 0.1} | change))
