"""Calls that would silently do nothing, or attack nothing that counts, are errors that say so."""

import functools
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fastadv import attacks
from fastadv.attacks import apgd, bss, fgsm, mi_fgsm, pgd, svgd, vat
from fastadv.attacks.methods.tald_released import released_particles
from tests.attacks.trained import accuracy, trained

LABELLED = [fgsm, pgd, mi_fgsm, apgd, svgd]
# Attacks that look for one misclassified image after another.
SEARCHES = [
    functools.partial(attacks.fab, steps=3),
    functools.partial(attacks.square, queries=9),
    functools.partial(apgd, variant="autoattack"),
]
# Called with (model, x, bounds=...), with a class to reach where it asks for one.
BOUNDED = {
    **{attack.__name__: lambda model, x, attack=attack, **how: attack(model, x, eps=0.1, **how) for attack in LABELLED},
    "bss": lambda model, x, **how: bss(model, x, torch.zeros(len(x), dtype=torch.int64), **how),
    "released": lambda model, x, **how: released_particles(model, x, eps=0.1, particles=2, **how),
    "vat": lambda model, x, bounds=(0.0, 1.0), **how: vat(model, x, eps=0.1, bounds=bounds, **how),
}
by_name = pytest.mark.parametrize("attack", BOUNDED.values(), ids=BOUNDED)


@by_name
def test_images_outside_of_the_box(attack, network, images):
    for outside, values in ((images * 255, "0 to 255"), ((images - 0.5) / 0.25, "-2 to 2")):
        with pytest.raises(ValueError, match=re.escape(f"x must lie in bounds, (0.0, 1.0), got values from {values}")):
            attack(network, outside)
        attack(network, outside, bounds=None)
        attack(network, outside, check=False)
    attack(network, images + 5e-5)  # what rounding may do


def test_the_box_of_each_channel(network, images):
    low, high = torch.tensor([0.0, -1.0, 0.0]).view(3, 1, 1), torch.tensor([1.0, 1.0, 3.0]).view(3, 1, 1)
    x = low + images * (high - low)
    found = pgd(network, x, eps=0.1, bounds=(low, high))
    assert (found >= low).all()
    assert (found <= high).all()
    with pytest.raises(ValueError, match="x must lie in bounds, got values from"):
        pgd(network, x + 0.1, eps=0.1, bounds=(low, high))


@by_name
def test_what_is_not_finite_is_named(attack, network, images):
    broken = images.clone()
    broken[2, 0, 0, 0] = torch.nan
    for bounds in ((0.0, 1.0), None):
        with pytest.raises(ValueError, match="x must be finite, got NaN or infinity in image 2 of the batch"):
            attack(network, broken, bounds=bounds)
    network.eval()
    odd = Odd(network)
    with pytest.raises(
        ValueError, match=r"model must give finite logits, got NaN or infinity for image 0 .* and 1 more"
    ):
        attack(odd, images)
    attack(odd, images, check=False)
    network[5].weight.data[1, 3] = torch.inf
    with pytest.raises(ValueError, match=r"model must be finite, got NaN or infinity in its parameter 5\.weight"):
        attack(network, images)


class Odd(nn.Module):
    """Infinite logits for the images that begin with a black pixel: of the batch the first, and any after a step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        z = self.network(x)
        wrong = torch.zeros(len(z), 1)
        wrong[[0, len(z) // 2]] = torch.inf
        return z + wrong


def test_infinite_buffers_and_outputs_of_a_callable_loss(network, images):
    network[1].running_var.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"model must be finite, got NaN or infinity in its buffer 1\.running_var"):
        pgd(network, images, eps=0.1, loss=lambda z: z.sum(1))


@pytest.mark.parametrize("attack", [fgsm, pgd, mi_fgsm, apgd])
def test_a_target_nobody_named(attack, network, images, labels):
    with pytest.raises(ValueError, match="y must be given for targeted=True: the classes to be reached"):
        attack(network, images, eps=0.1, targeted=True)
    with pytest.raises(ValueError, match='reference must be given for a targeted "kl"'):
        attack(network, images, eps=0.1, loss="kl", targeted=True)


@pytest.mark.parametrize("attack", LABELLED)
def test_labels_that_nothing_reads(attack, network, images, labels):
    with pytest.raises(ValueError, match='y must be None for loss "kl"'):
        attack(network, images, labels, eps=0.1, loss="kl")
    with pytest.raises(ValueError, match="y must be None for a loss of the logits alone"):
        attack(network, images, labels, eps=0.1, loss=lambda z: z.sum(1))
    with pytest.raises(ValueError, match=r"y must be given for a loss\(logits, y\)"):
        attack(network, images, eps=0.1, loss=lambda z, y: cross_entropy(z, y, reduction="none"))


@pytest.mark.parametrize("shift", [-100, 5])
@pytest.mark.parametrize("attack", [attacks.autoattack, *SEARCHES])
def test_labels_that_are_no_class(attack, shift, network, images, labels):
    with pytest.raises(ValueError, match=r"y must lie in \[0, 5\), got values from"):
        attack(network, images, labels + shift, eps=0.1)


@pytest.mark.parametrize("attack", SEARCHES)
def test_a_radius_may_be_a_tensor_without_dimensions(attack, network, images):
    found = attack(network, images, eps=torch.tensor(0.1), seed=0)
    assert torch.equal(found, attack(network, images, eps=0.1, seed=0))


def test_labels_that_the_released_sampler_does_not_read(network, images, labels):
    with pytest.raises(ValueError, match="y must be None for variant 'released'"):
        svgd(network, images, labels, eps=0.1, variant="released")


@pytest.mark.parametrize(
    "given",
    [
        {"mask": torch.ones(6, 6, dtype=torch.bool)},
        {"eot": 2},
        {"quantize": True},
        {"reference": torch.zeros(6, 5)},
    ],
    ids=str,
)
def test_keywords_that_the_released_sampler_does_not_read(network, images, given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be left out for variant 'released'"):
        svgd(network, images, eps=0.1, variant="released", **given)


@pytest.mark.parametrize("attack", LABELLED)
def test_a_reference_that_is_not_finite(attack, network, images):
    reference = torch.zeros(6, 5)
    reference[4, 1] = torch.nan
    with pytest.raises(ValueError, match="reference must be finite, got NaN or infinity in row 4 of the batch"):
        attack(network, images, eps=0.1, loss="kl", reference=reference)


@pytest.mark.parametrize("attack", LABELLED)
def test_one_logit_is_two_classes(attack, network, images):
    network.eval()
    one = nn.Sequential(network, nn.Linear(5, 1)).eval()
    two = nn.Sequential(one, TwoClasses())
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    for labels in ((y,), ()):
        found = attack(one, images, *labels, eps=0.1, seed=0)
        assert torch.equal(found, attack(two, images, *labels, eps=0.1, seed=0))
        assert (found.view(6, -1, 108) != images.view(6, 1, 108)).any()
    reference = torch.randn(6, 1)
    found = attack(one, images, eps=0.1, seed=0, loss="kl", reference=reference)
    assert torch.equal(found, attack(two, images, eps=0.1, seed=0, loss="kl", reference=TwoClasses()(reference)))
    with pytest.raises(ValueError, match='loss must not be "dlr" for a model of 2 classes'):
        attack(one, images, eps=0.1, loss="dlr")


class TwoClasses(nn.Module):
    def forward(self, z):
        return torch.cat((torch.zeros_like(z), z), 1)


@pytest.mark.parametrize("attack", [fgsm, mi_fgsm, apgd, lambda *args, **how: pgd(*args, random_start=False, **how)])
def test_the_divergence_from_the_own_answer_starts_where_it_has_a_gradient(attack):
    """From x itself the sign of rounding would be followed."""
    network, x, y = trained()
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
    rounding = accuracy(network, (x + 0.1 * noise).clamp(0, 1), y)
    found = attack(network, x, eps=0.1, loss="kl", seed=0)
    assert accuracy(network, found, y) < rounding - 10


@pytest.mark.parametrize(
    "answer",
    [lambda z: {"logits": z}, lambda z: (z, z), lambda z: type("Answer", (), {"logits": z})()],
    ids=["dict", "tuple", "object"],
)
def test_a_model_that_gives_more_than_logits(answer, network, images, labels):
    def model(x):
        return answer(network(x))

    for attack in LABELLED:
        with pytest.raises(TypeError, match=r"model must give logits \[N, C\], got .*; wrap it with lambda x: model"):
            attack(model, images, labels, eps=0.1)
    key = 0 if isinstance(answer(images), tuple) else "logits"
    found = pgd(attacks.Logits(model, key), images, labels, eps=0.1, seed=0)
    assert torch.equal(found, pgd(network, images, labels, eps=0.1, seed=0))


def test_normalising_is_the_models_first_layer(network, images, labels):
    network.eval()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    wrapped = attacks.Normalized(network, mean, std)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(wrapped(images), network(by_hand))
    assert wrapped.state_dict().keys() == {f"network.{name}" for name in network.state_dict()}
    assert (pgd(wrapped, images, labels, eps=0.1) - images).abs().max() <= 0.1 + 2.0**-23
    for wrong in (((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))):
        with pytest.raises(ValueError, match=r"mean, std: .* expected one value a channel and std > 0"):
            attacks.Normalized(network, *wrong)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_normalised_network_may_be_in_half_precision_and_anywhere(network, images, labels, dtype):
    wrapped = attacks.Normalized(network.eval().to(dtype), 0.5, 0.25)
    assert wrapped(images.to(dtype)).dtype == dtype
    assert not torch.equal(pgd(wrapped, images, labels, eps=0.1), images)
    elsewhere = attacks.Normalized(network.to("meta"), 0.5, 0.25)
    assert elsewhere(images.to("meta", dtype)).device.type == "meta"


@pytest.mark.parametrize("attack", [pgd, apgd])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": torch.full((5, 1, 1), 0.1)}, "eps must broadcast to the samples"),
        ({"eps": torch.full((1, 6, 3, 8, 8), 0.1)}, "eps must broadcast to the samples"),
        ({"eps": 0.1, "bounds": (torch.zeros(5, 1, 1), 1.0)}, re.escape("bounds[0] must broadcast to the samples")),
    ],
)
def test_what_does_not_broadcast_is_named(network, images, labels, attack, given, message):
    with pytest.raises(ValueError, match=message):
        attack(network, images, labels, **given)
    with pytest.raises(TypeError, match=r"eps must be float64, .* got torch\.int64"):
        attack(network, images, labels, eps=torch.ones(3, 1, 1, dtype=torch.int64))


def test_a_map_in_any_layout_that_is_not_finite_is_told(images):
    def to_maps(x):
        return (x / 0).contiguous(memory_format=torch.channels_last)

    with pytest.raises(ValueError, match="model must give finite logits"):
        pgd(to_maps, images, images, loss=lambda maps, y: maps.flatten(1).sum(1), eps=0.1)
