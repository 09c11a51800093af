"""What a first call inside of inference mode makes is as good for the calls outside of it."""

import pytest
import torch
from torch import nn

from fastadv.attacks import PGD, capture, freeze, pgd
from tests.attacks.recorded import record_on_the_cpu


@pytest.mark.filterwarnings("ignore:capture")
@pytest.mark.parametrize("seed", [None, 3, torch.tensor(3)])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_captured_attack(recorded, seed, monkeypatch, network, images, labels):
    if recorded:
        record_on_the_cpu(monkeypatch)
    attack = capture(PGD(eps=0.1, steps=2, seed=seed))
    with torch.inference_mode():
        first = attack(network, images.clone(), labels.clone())
    second = attack(network, 1 - images, labels)
    with torch.inference_mode():
        attack(network, images, labels)
    attack(network, images, labels)
    if seed is not None:
        assert torch.equal(first, pgd(network, images, labels, eps=0.1, steps=2, seed=3))
        assert torch.equal(second, pgd(network, 1 - images, labels, eps=0.1, steps=2, seed=4))


class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 5)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).view(x.size(0), -1))


@pytest.mark.filterwarnings("ignore:freeze. the model runs in the contiguous layout")
def test_a_frozen_model_that_goes_back_to_the_contiguous_layout(images, labels):
    model = Views().eval()
    frozen = freeze(model)
    with torch.inference_mode():
        frozen(images.clone())
    found = pgd(frozen, images, labels, eps=0.1, seed=0)
    torch.testing.assert_close(found, pgd(model, images, labels, eps=0.1, seed=0))
    frozen.refresh()


def test_a_model_that_is_frozen_inside(network, images, labels):
    network.eval()
    expected = pgd(network, images, labels, eps=0.1, norm="l2", seed=0)
    with torch.inference_mode():
        frozen = freeze(network, dtype=torch.float32)
    assert not any(tensor.is_inference() for tensor in (*frozen.parameters(), *frozen.buffers()))
    torch.testing.assert_close(pgd(frozen, images, labels, eps=0.1, norm="l2", seed=0), expected)
    frozen.refresh()
