"""Errors speak of the arguments that the caller gave: y, loss, start_eps, sample_ids; not of what an op calls them."""

import functools
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastadv import attacks
from fastadv.attacks import PGD, apgd, fab, fgsm, mi_fgsm, pgd, square, svgd, vat

LABELLED = [fgsm, pgd, mi_fgsm, apgd, svgd]


def of_classes(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(108, classes))


@pytest.mark.parametrize("shift", [-100, 5])
@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
@pytest.mark.parametrize("attack", LABELLED)
def test_labels_that_are_no_class(attack, loss, shift, network, images, labels):
    with pytest.raises(ValueError, match=r"^y must lie in \[0, 5\), got values from"):
        attack(network, images, labels + shift, eps=0.1, loss=loss)


def test_labels_that_are_no_class_of_the_last_judgement_alone(network, images, labels):
    with pytest.raises(ValueError, match=r"^y must lie in \[0, 5\), got values from"):
        pgd(network, images, labels + 5, eps=0.1, steps=0, best=True)


def test_true_classes_that_are_none_keep_their_name(network, images, labels):
    with pytest.raises(ValueError, match=r"^reference must lie in \[0, 5\)"):
        pgd(network, images, labels, eps=0.1, loss="dlr", targeted=True, reference=labels + 5)


RANKING = [
    *(
        (attack, {}, classes)
        for attack in (*LABELLED, functools.partial(pgd, steps=0, best=True))
        for classes in (2, 1)
    ),
    *((attack, {"targeted": True}, 3) for attack in (fgsm, pgd, mi_fgsm, apgd)),
    (apgd, {"variant": "autoattack"}, 2),
    (apgd, {"variant": "autoattack", "targets": 2}, 3),
]


@pytest.mark.parametrize(("attack", "how", "classes"), RANKING)
def test_a_loss_that_ranks_more_classes_than_there_are(attack, how, classes, images):
    kind, needed = ('a targeted "dlr"', 4) if classes == 3 else ('"dlr"', 3)
    message = f"^loss must not be {kind} for a model of {max(classes, 2)} classes: it needs {needed} or more"
    y = torch.zeros(6, dtype=torch.int64) if "targeted" in how else None
    with pytest.raises(ValueError, match=message):
        attack(of_classes(classes), images, y, eps=0.1, loss="dlr", **how)


def test_no_images_have_no_classes(images):
    assert apgd(of_classes(2), images[:0], eps=0.1, loss="dlr", variant="autoattack").shape == images[:0].shape


@pytest.mark.parametrize("targets", [None, 2])
def test_fab_wants_a_differentiable_model(targets, network, images):
    with pytest.raises(ValueError, match="model and loss must be differentiable by the images"):
        fab(lambda x: network(x).detach(), images, eps=0.1, targets=targets)


def weighted(logits, y, weights):
    return weights * cross_entropy(logits, y, reduction="none")


@pytest.mark.parametrize("with_labels", [True, False])
def test_a_loss_that_asks_for_more_than_there_is(with_labels, network, images, labels):
    given = (labels,) if with_labels else ()
    message = "loss must take the output of model, or that and y, and ask for no more, got "
    with pytest.raises(ValueError, match=re.escape(f"{message}weighted(logits, y, weights)")):
        pgd(network, images, *given, eps=0.1, loss=weighted)
    with pytest.raises(ValueError, match=re.escape(f"{message}partial(logits, y, w)")):
        pgd(network, images, *given, eps=0.1, loss=functools.partial(lambda t, logits, y, w: w, 2.0))


def test_a_start_that_is_not_drawn_has_no_radius(network, images, labels):
    message = "start_eps must be None for random_start=False, which draws nothing from that ball"
    with pytest.raises(ValueError, match=message):
        pgd(network, images, labels, eps=0.1, start_eps=0.05, random_start=False)
    with pytest.raises(ValueError, match=message):
        PGD(eps=0.1, start_eps=0.05, random_start=False, loss="kl")(network, images)


DRAWING = {
    "pgd": pgd,
    "pgd of the clean image": functools.partial(pgd, random_start=False),
    "apgd": apgd,
    "autoattack's apgd": functools.partial(apgd, variant="autoattack"),
    "svgd": svgd,
    "released": functools.partial(svgd, variant="released"),
    "vat": vat,
    "fab": functools.partial(fab, steps=2),
    "square": functools.partial(square, queries=2),
    "targets": lambda network, x, eps, sample_ids: attacks.bss_targets(network(x), sample_ids=sample_ids),
    "autoattack": lambda network, x, **how: attacks.autoattack(network, x, torch.zeros(6, dtype=torch.int64), **how),
}


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 2**32], [0, 1, -1, 2, 3, 4]])
@pytest.mark.parametrize("attack", DRAWING.values(), ids=DRAWING)
def test_identities_have_32_bits(attack, ids, network, images):
    least, most = min(ids), max(ids)
    with pytest.raises(ValueError, match=rf"sample_ids must lie in \[0, 2\^32\), got values from {least} to {most}"):
        attack(network, images, eps=0.1, sample_ids=torch.tensor(ids))


def test_the_largest_identity(network, images, labels):
    ids = torch.tensor([0, 1, 2, 3, 4, 2**32 - 1])
    found = pgd(network, images, labels, eps=0.1, seed=0, restarts=2, sample_ids=ids)
    assert not torch.equal(found, pgd(network, images, labels, eps=0.1, seed=0, restarts=2))
