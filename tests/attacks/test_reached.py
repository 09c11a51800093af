"""An image that has reached the goal is never given back for one that has not."""

import pytest
import torch
from torch import nn

from fastadv.attacks import apgd, fgsm, mi_fgsm, pgd
from tests.attacks.trained import accuracy, trained


class Watched(nn.Module):
    """A network that notes, for each image, whether any of the images it was shown is of the class ``wanted``."""

    def __init__(self, network, y, targeted):
        super().__init__()
        self.network, self.y, self.targeted = network, y, targeted
        self.seen = torch.zeros(len(y), dtype=torch.bool)

    def forward(self, x):
        logits = self.network(x)
        if len(x) % len(self.y) == 0:
            is_class = logits.detach().argmax(1).view(len(self.y), -1) == self.y[:, None]
            self.seen |= (is_class if self.targeted else ~is_class).any(1)
        return logits


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "dlr", "cw"])
@pytest.mark.parametrize(
    ("attack", "how"),
    [
        (apgd, {"steps": 20}),
        (apgd, {"steps": 10, "restarts": 2}),
        (apgd, {"steps": 20, "norm": "l1", "eps": 3.0}),
        (pgd, {"best": True, "step_size": 0.1}),
        (pgd, {"best": True, "restarts": 2}),
        (mi_fgsm, {"best": True}),
        (fgsm, {"best": True}),
    ],
)
def test_what_was_reached_is_returned(attack, how, loss, targeted):
    network, x, y = trained()
    wanted = (y + 1) % 10 if targeted else y
    how = {"eps": 0.15, "loss": loss, "targeted": targeted, "seed": 0} | how
    if loss == "dlr" and targeted:
        how["reference"] = y
    watched = Watched(network, wanted, targeted)
    found = attack(watched, x, wanted, **how)
    is_class = network(found).argmax(1) == wanted
    reached = is_class if targeted else ~is_class
    assert torch.equal(reached, watched.seen)
    assert reached.any()


def test_of_two_that_reached_it_the_higher_loss_counts():
    network, x, y = trained()
    last, best = (pgd(network, x, y, eps=0.1, best=best, seed=0) for best in (False, True))
    assert accuracy(network, best, y) <= accuracy(network, last, y)
    both = (network(last).argmax(1) != y) & (network(best).argmax(1) != y)
    losses = [nn.functional.cross_entropy(network(each)[both], y[both], reduction="none") for each in (last, best)]
    assert (losses[1] >= losses[0] - 1e-5).all()
