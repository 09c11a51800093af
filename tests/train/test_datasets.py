import sys

import pytest
import torch

from fastadv.train.data import datasets
from fastadv.train.data.splits import subset, to_pixels
from fastadv.train.runtime.errors import ConfigError, MissingExtraError


def test_digits_are_split_by_class_and_the_same_each_time():
    digits = datasets.load("digits")
    assert digits.image_shape == (1, 8, 8)
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    assert torch.bincount(digits.test.labels).tolist() == [50] * 10
    assert digits.train.images.dtype == torch.uint8
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    assert torch.equal(digits.test.images, datasets.load("digits").test.images)


def test_no_digit_is_in_both_splits():
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    rows = torch.from_numpy(load_digits().data * 255 / 16).round().to(torch.uint8)
    digits = datasets.load("digits")
    both = torch.cat([digits.train.images, digits.test.images]).flatten(1)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, rows.tolist()))


def test_pixels_lie_in_the_unit_interval_and_keep_the_layout_asked_for():
    images = torch.arange(256, dtype=torch.uint8).view(1, 4, 8, 8)
    pixels = to_pixels(images, channels_last=True)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pixels.flatten(), torch.arange(256) / 255, rtol=0, atol=0)


def test_a_subset_is_stratified_and_depends_on_the_seed():
    train = datasets.load("digits").train
    small = subset(train, 200, seed=0)
    assert torch.bincount(small.labels).tolist() == [20] * 10
    assert torch.equal(small.images, subset(train, 200, seed=0).images)
    assert not torch.equal(small.images, subset(train, 200, seed=1).images)
    with pytest.raises(ConfigError, match=r"student_samples: 1298, expected 1\.\.1297"):
        subset(train, 1298, seed=0)


def test_unknown_data_is_named():
    with pytest.raises(ConfigError, match="data: 'mnist'"):
        datasets.load("mnist")


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fastadv\[train\]'"):
        datasets.load("digits")
