"""Losses and models as people hand them in: callables of anything, closures, partials, several threads."""

import copy
import functools
import threading
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from fastadv.attacks import apgd, fgsm, mi_fgsm, pgd, svgd

ATTACKS = [fgsm, pgd, mi_fgsm, apgd, svgd]


class Answer(NamedTuple):
    logits: torch.Tensor
    extra: None


def of_each(z, y):
    return cross_entropy(z, y, reduction="none")


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_loss_of_logits_and_labels(attack, network, images, labels):
    for loss in (of_each, functools.partial(cross_entropy, reduction="none"), nn.CrossEntropyLoss(reduction="none")):
        how = {} if attack is svgd else {"restarts": 3, "random_start": True}
        found = attack(network, images, labels, eps=0.1, seed=0, loss=loss, **how)
        rows = how.get("restarts", 4)
        by_hand = functools.partial(of_each, y=labels.repeat_interleave(rows))
        assert torch.equal(found, attack(network, images, eps=0.1, seed=0, loss=by_hand, **how))


def test_many_labels_and_segmentation(network, images):
    several = (torch.rand(6, 5) > 0.5).float()

    def loss(z, y):
        return binary_cross_entropy_with_logits(z, y, reduction="none").sum(1)

    found = pgd(network, images, several, eps=0.1, loss=loss, restarts=2)
    network.eval()
    assert (loss(network(found), several) > loss(network(images), several)).all()
    pixels = nn.Conv2d(3, 4, 1)
    classes = torch.randint(0, 4, (6, 6, 6))
    found = pgd(pixels, images, classes, eps=0.1, loss=lambda z, y: of_each(z, y).mean((1, 2)), restarts=2)
    assert (of_each(pixels(found), classes).mean((1, 2)) > of_each(pixels(images), classes).mean((1, 2))).all()


@pytest.mark.parametrize(
    ("answer", "of"),
    [
        (lambda z: {"logits": z}, lambda out: out["logits"]),
        (lambda z: (z, None), lambda out: out[0]),
        (lambda z: Answer(z, None), lambda out: out.logits),
    ],
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_loss_of_whatever_the_model_gives(attack, answer, of, network, images, labels):
    how = {} if attack is svgd else {"restarts": 2}
    found = attack(
        lambda x: answer(network(x)), images, labels, eps=0.1, seed=0, loss=lambda out, y: of_each(of(out), y), **how
    )
    assert torch.equal(found, attack(network, images, labels, eps=0.1, seed=0, loss=of_each, **how))


def test_rows_that_do_not_fit_are_counted_out(network, images, labels):
    for attack, how in ((pgd, {"restarts": 3}), (svgd, {"particles": 3})):
        with pytest.raises(ValueError, match=r"a tensor \[18\], 3 an image for its restarts or particles, got \[6\]"):
            attack(network, images, eps=0.1, loss=lambda z: z[:6].sum(1), **how)


def test_labels_of_a_callable_are_a_tensor_of_the_batch(network, images, labels):
    with pytest.raises(TypeError, match="y must be a tensor, got list"):
        pgd(network, images, [0] * 6, eps=0.1, loss=of_each)
    with pytest.raises(ValueError, match="y must have the batch of x, 6"):
        pgd(network, images, labels[:3], eps=0.1, loss=of_each)


GLOBAL = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


class Holder:
    def __init__(self, network):
        self.network = network

    def __call__(self, x):
        return self.network(x)

    def predict(self, x):
        return self.network(x)


@pytest.mark.parametrize(
    "around",
    [
        lambda network: lambda x: network(x),
        lambda network: functools.partial(network.forward),
        lambda network: functools.partial(lambda net, x: net(x), network),
        lambda network: lambda x: (lambda z: z * 2)(Holder(network).predict(x)),
        lambda network: Holder(network),
        lambda network: Holder(network).predict,
        lambda network: lambda x, net=network: net(x),
        lambda network: lambda x: GLOBAL(x),
    ],
)
def test_batchnorm_inside_of_a_callable_does_not_move(around, network, images, labels):
    for module in (network, GLOBAL):
        module.train()
    before = copy.deepcopy((network.state_dict(), GLOBAL.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(around(network), images, labels, eps=0.1)
    torch.testing.assert_close((network.state_dict(), GLOBAL.state_dict()), before, atol=0, rtol=0)
    assert all(module.training for module in (*network.modules(), *GLOBAL.modules()))


def test_a_callable_in_which_nothing_is_found_says_so(images, labels):
    weight = torch.randn(108, 5)
    with pytest.warns(UserWarning, match="model is a callable in which no torch.nn.Module was found"):
        pgd(lambda x: x.flatten(1) @ weight, images, labels, eps=0.1)


def test_threads_leave_no_trace_on_a_module_they_share(network, images, labels):
    network.train()
    before = copy.deepcopy(network.state_dict())
    network.eval()
    expected = pgd(network, images, labels, eps=0.1, steps=5, seed=0)
    network.train()
    together, found = threading.Barrier(3, timeout=60), []

    def attack(number):
        for _ in range(4):
            together.wait()
            if number == 2:
                fgsm(network, images, labels, eps=0.1)  # is done first, while the others still attack
            else:
                found.append(pgd(network, images, labels, eps=0.1, steps=5, seed=0))

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    assert len(found) == 8
    assert all(torch.equal(each, expected) for each in found)
