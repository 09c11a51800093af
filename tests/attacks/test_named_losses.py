"""The named losses in the loops: closed-form optima of a linear model, and whose prediction is attacked."""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from fastadv.attacks import pgd, svgd
from fastadv.attacks.loop.objective import divergence_direction

EPS = 0.1


@pytest.fixture
def model() -> nn.Sequential:
    """Two opposite classes, and two that are never near."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).double()
    with torch.no_grad():
        model[1].weight[1] = -model[1].weight[0]
        model[1].weight[2:] = 0
        model[1].bias.copy_(torch.tensor([0.0, 0.0, -1000.0, -1000.0]))
    return model


def optimum(x, uphill, norm):
    """The farthest point of the ball around ``x`` along ``uphill``, of the ball and the box for linf."""
    if norm == "linf":
        return (x + EPS * uphill.sign()).clamp(0, 1)
    if norm == "l2":
        return x + EPS * uphill / uphill.flatten(1).norm(dim=1)[:, None, None, None]
    largest = uphill.flatten(1).abs().argmax(1, keepdim=True)
    return x + EPS * torch.zeros_like(uphill).flatten(1).scatter(1, largest, 1).view_as(x) * uphill.sign()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "kl", "cw", "dlr"])
def test_optimum_of_a_linear_model(model, images, loss, targeted, restarts, norm):
    x, y = images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = model[1].weight.detach()
    # The spread of the logits grows, but a thousand times slower than the gap.
    uphill = (weight[1 - y] - weight[y]).view_as(x)
    aim = 1 - y if targeted else y
    reference = {"kl": 20.0 * one_hot(aim, 4).double(), "dlr": y if targeted else None}.get(loss)
    how = {"targeted": targeted, "reference": reference, "restarts": restarts, "norm": norm, "seed": 0}
    if norm != "linf":
        how |= {"bounds": None, "step_size": 2 * EPS, "steps": 60, "l1_fraction": 1 / 108}
    # A divergence reads no classes.
    found = pgd(model, x, None if loss == "kl" else aim, eps=EPS, loss=loss, **how)
    torch.testing.assert_close(found, optimum(x, uphill, norm), atol=1e-15 if norm == "linf" else 1e-9, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_the_direction_of_the_divergence(scale):
    """Times its scale it is softmax(z) - softmax(r), which is zero where nothing else has a probability."""
    generator = torch.Generator().manual_seed(0)
    reference = scale * torch.randn(40, 7, generator=generator).double()
    logits = reference + scale * torch.randn(40, 7, generator=generator).double()
    logits[:20, :] = reference[:20, :] + 0.01 * scale * torch.randn(20, 7, generator=generator).double()
    direction, log_scale = divergence_direction(logits, reference)
    expected = logits.softmax(1) - reference.softmax(1)
    torch.testing.assert_close(log_scale.exp()[:, None] * direction, expected, atol=1e-14, rtol=0)
    assert direction.sum(1).abs().max() < 1e-14
    assert direction.abs().amax(1).min() > 1e-3
    single, _ = divergence_direction(logits.float(), reference.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), direction, atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize("loss", ["cw", "dlr"])
def test_no_label_attacks_the_prediction(network, images, loss):
    prediction = network.eval()(images).argmax(1)
    assert torch.equal(
        pgd(network, images, eps=EPS, loss=loss, seed=0), pgd(network, images, prediction, eps=EPS, loss=loss, seed=0)
    )
    assert torch.equal(
        svgd(network, images, eps=EPS, loss=loss, seed=0), svgd(network, images, prediction, eps=EPS, loss=loss, seed=0)
    )


def test_no_true_class_is_the_prediction(network, images):
    prediction = network.eval()(images).argmax(1)
    how = {"eps": EPS, "loss": "dlr", "targeted": True, "seed": 0}
    aim = (prediction + 1) % 5
    assert torch.equal(pgd(network, images, aim, **how), pgd(network, images, aim, reference=prediction, **how))
    assert not torch.equal(pgd(network, images, aim, **how), pgd(network, images, aim, reference=(aim + 1) % 5, **how))
