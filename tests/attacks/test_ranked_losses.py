"""The losses that rank logits, in the loops: closed-form optima of a linear model, and whose prediction is attacked."""

import pytest
import torch
from torch import nn

from fastadv.attacks import pgd, svgd

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


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["cw", "dlr"])
def test_linf_optimum_of_a_linear_model(model, images, loss, targeted, restarts):
    x, y = images.double(), torch.tensor([0, 1, 0, 1, 0, 1])
    weight = model[1].weight.detach()
    # The spread of the logits grows, but a thousand times slower than the gap.
    uphill = (weight[1 - y] - weight[y]).sign().view_as(x)
    expected = (x + EPS * uphill).clamp(0, 1)
    how = {"targeted": True, "reference": y if loss == "dlr" else None} if targeted else {}
    found = pgd(model, x, 1 - y if targeted else y, eps=EPS, loss=loss, restarts=restarts, seed=0, **how)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=0)


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
