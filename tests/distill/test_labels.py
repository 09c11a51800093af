"""Smoothed labels and those of mixed images."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from fastadv.distill import KD, Batch
from fastadv.train.config.methods import METHODS, read_spec
from fastadv.train.config.train_config import resolve
from fastadv.train.data import datasets
from fastadv.train.data.splits import to_pixels
from fastadv.train.loop.experiment import build_classifier

CLASSES = 10


@pytest.fixture(scope="module")
def given():
    """Student, teacher and a batch of mixed images of the digits."""
    data = datasets.load("digits")
    student, teacher = (build_classifier("digits_cnn", resolve(), data, seed=seed) for seed in (0, 1))
    batch = Batch(to_pixels(data.train.images[:8]), data.train.labels[:8], progress=0.5, seed=0, index=torch.arange(8))
    return student, teacher.eval(), batch, data.train.labels[8:16]


def test_smoothed_labels_of_mixed_images_are_torchs_soft_targets(given):
    *_, batch, others = given
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    soft = 0.7 * F.one_hot(batch.y, CLASSES) + 0.3 * F.one_hot(others, CLASSES)
    expected = F.cross_entropy(logits, 0.8 * soft.double() + 0.2 / CLASSES)
    mixed = dataclasses.replace(batch, label_smoothing=0.2, mixed=(others, 0.7))
    torch.testing.assert_close(mixed.cross_entropy(logits), expected)
    torch.testing.assert_close(batch.cross_entropy(logits), F.cross_entropy(logits, batch.y))
    assert batch.cross_entropy(logits.bfloat16()).dtype is torch.float32


def test_two_ops_give_the_loss_of_the_one_of_hard_labels(given):
    student, teacher, batch, _ = given
    method = KD(temperature=3.0, alpha=0.6)
    one = method(student, teacher, batch)["loss"]
    two = method(student, teacher, dataclasses.replace(batch, mixed=(batch.y, 0.4)))["loss"]
    torch.testing.assert_close(two, one)


def loss_of(name, given, **changes):
    """The loss at one step of a method that is built anew."""
    student, teacher, batch = copy.deepcopy(given[:3])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = read_spec(name, {}, where="methods").build()
        method.build(student, teacher, batch.x, images=8)
        method.start_epoch(student)
        return method, method(student, teacher, dataclasses.replace(batch, **changes))["loss"]


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_whether_smoothing_changes_its_loss(name, given):
    method, hard = loss_of(name, given)
    _, smooth = loss_of(name, given, label_smoothing=0.3)
    assert torch.equal(hard, smooth) != any(part.smooths_labels for part in method.parts())


@pytest.mark.filterwarnings("ignore:IGDM")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_mixes_images_has_the_mean_of_both_losses(name, given):
    method, own = loss_of(name, given)
    if all(part.mixes_images for part in method.parts()):
        _, other = loss_of(name, given, y=given[-1])
        _, mixed = loss_of(name, given, mixed=(given[-1], 0.7))
        torch.testing.assert_close(mixed, 0.7 * own + 0.3 * other)
        _, elsewhere = loss_of(name, given, index=torch.arange(8).flip(0))
        assert torch.equal(own, elsewhere)
    else:
        assert not {"ce", "kd", "fitnet", "ai-kd"} & {name}
