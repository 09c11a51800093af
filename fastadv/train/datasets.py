"""Datasets that sit on the device as uint8."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastadv.train import cifar100
from fastadv.train.errors import ConfigError
from fastadv.train.extras import require
from fastadv.train.seeding import generator

DIGITS_TEST_PER_CLASS = 50
DIGITS_SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A training and a test split with what a network needs to know about them.

    mean, std: per channel, of pixels in [0, 1].
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def to_pixels(images: Tensor, *, channels_last: bool = False) -> Tensor:
    """uint8 [N, C, H, W] to float32 pixels in [0, 1]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(torch.float32, memory_format=layout).div_(255)


def load(name: str, *, data_dir: Path | None = None, device: torch.device | str = "cpu") -> Dataset:
    """The dataset `name` ("digits" or "cifar100") on `device`.

    Raises ConfigError for an unknown name or a missing data_dir, DataError for missing or damaged files.
    """
    if name == "digits":
        dataset = _digits()
    elif name == "cifar100":
        if data_dir is None:
            raise ConfigError("data_dir: None, expected the folder that holds cifar-100-python or cifar-100-binary")
        dataset = _cifar100(data_dir)
    else:
        raise ConfigError(f"data: {name!r}, expected 'digits' or 'cifar100'")
    train, test = dataset.train.to(device), dataset.test.to(device)
    return Dataset(train, test, dataset.class_names, dataset.mean, dataset.std)


def stratified_order(labels: Tensor, *, seed: int) -> Tensor:
    """Indices [N] in a random order in which every prefix holds all classes as equally as it can."""
    shuffled = torch.randperm(len(labels), generator=generator(seed, "stratified"))
    grouped = shuffled[torch.argsort(labels.cpu()[shuffled], stable=True)]
    counts = torch.bincount(labels.cpu())
    rank_in_class = torch.cat([torch.arange(int(count)) for count in counts])
    return grouped[torch.argsort(rank_in_class, stable=True)]


def subset(split: Split, size: int, *, seed: int) -> Split:
    """`size` images of `split`, drawn by class. Raises ConfigError when there are fewer."""
    if not 0 < size <= len(split):
        raise ConfigError(f"student_samples: {size}, expected 1..{len(split)}")
    chosen = stratified_order(split.labels, seed=seed)[:size].to(split.labels.device)
    return Split(split.images[chosen], split.labels[chosen])


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels: 50 images a class to test, the rest to train, one fixed split."""
    bunch = require("sklearn.datasets", "the digits dataset").load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = stratified_order(labels, seed=DIGITS_SPLIT_SEED)
    tested = 10 * DIGITS_TEST_PER_CLASS
    test, train = order[:tested], order[tested:]
    pixels = images[train].double() / 255
    return Dataset(
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
        mean=(pixels.mean().item(),),
        std=(pixels.std().item(),),
    )


def _cifar100(folder: Path) -> Dataset:
    splits, class_names = cifar100.read(folder)
    train, test = (Split(*map(torch.from_numpy, splits[name])) for name in ("train", "test"))
    # The figures the public checkpoints were trained with.
    return Dataset(train, test, class_names, mean=(0.5070, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))
