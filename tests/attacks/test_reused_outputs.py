"""A network that gives its outputs in one buffer, gradients and all, as a graph that is replayed does."""

from functools import partial

import pytest
import torch

from fastadv.attacks import APGD, FGSM, MIFGSM, PGD, SVGD, VAT
from tests.attacks.same_buffer import SameBuffer

ATTACKS = {
    "fgsm": FGSM(eps=0.1, loss="kl", seed=0),
    "pgd": PGD(eps=0.1, loss="kl", seed=0),
    "pgd of the clean image": PGD(eps=0.1, loss="kl", seed=0, random_start=False),
    "pgd restarts": PGD(eps=0.1, loss="kl", seed=0, restarts=2),
    "mi_fgsm": MIFGSM(eps=0.1, loss="kl", seed=0),
    "apgd": APGD(eps=0.1, loss="kl", seed=0, steps=6),
    "svgd": SVGD(eps=0.1, loss="kl", seed=0),
    "svgd of one": SVGD(eps=0.1, loss="kl", seed=0, particles=1),
    "vat": VAT(eps=1.0, seed=0),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_the_clean_answer_outlives_the_next_pass(attack, network, images):
    network.eval()
    assert torch.equal(attack(SameBuffer(network), images), attack(network, images))


@pytest.mark.parametrize("attack", [PGD, MIFGSM, partial(SVGD, particles=1)])
def test_so_does_a_reference_that_the_network_gave(attack, network, images):
    network.eval()
    model, how = SameBuffer(network), {"eps": 0.1, "loss": "kl", "seed": 0}
    found = attack(**how)(model, images, reference=model(images).detach())
    assert torch.equal(found, attack(**how)(network, images, reference=network(images).detach()))
