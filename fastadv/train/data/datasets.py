"""Datasets that sit on the device as uint8."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastadv.train.data import cifar, image_folder, tiny_imagenet
from fastadv.train.data.stored import Stored
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.extras import require
from fastadv.train.runtime.seeding import generator

# What data_dir holds, by the name of the dataset; the digits come with scikit-learn.
LAYOUTS = {
    "cifar10": "cifar-10-batches-py or cifar-10-batches-bin",
    "cifar100": "cifar-100-python or cifar-100-binary",
    "tiny-imagenet": "tiny-imagenet-200",
    "folder": "train/CLASS/* and test/CLASS/* or val/CLASS/*, image files that Pillow reads",
}
NAMES = ("digits", *LAYOUTS)
RESIZED = ("tiny-imagenet", "folder")
# What the flags of both commands say.
DATA_DIR = "folder that holds, for " + "; for ".join(f"{name}, {layout}" for name, layout in LAYOUTS.items())
IMAGE_SIZE = f"scale and cut the images of {' or '.join(RESIZED)} to squares of this side; none keeps theirs"
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


def load(
    name: str, *, data_dir: Path | None = None, image_size: int | None = None, device: torch.device | str = "cpu"
) -> Dataset:
    """The dataset `name`, one of NAMES, on `device`.

    data_dir: the folder that holds it, laid out as LAYOUTS says.
    image_size: the side that images are scaled and cut to, for the datasets of RESIZED; None keeps theirs.

    Raises ConfigError for arguments that check_source refuses, DataError for missing or damaged files,
    MissingExtraError where a library is missing that reads them.
    """
    check_source(name, data_dir, image_size)
    if name == "digits":
        dataset = _digits()
    else:
        assert data_dir is not None
        dataset = _READERS[name](data_dir, image_size)
    train, test = dataset.train.to(device), dataset.test.to(device)
    return Dataset(train, test, dataset.class_names, dataset.mean, dataset.std)


def check_name(name: str) -> None:
    """Raises ConfigError for a name not in NAMES."""
    if name not in NAMES:
        raise ConfigError(f"data: {name!r}, expected one of {', '.join(NAMES)}")


def check_source(name: str, data_dir: Path | None, image_size: int | None) -> None:
    """Raises ConfigError for an unknown name, a missing data_dir, an image_size where images are not resized."""
    check_name(name)
    if data_dir is None and name in LAYOUTS:
        raise ConfigError(f"data_dir: None, expected the folder that holds {LAYOUTS[name]}")
    if image_size is not None and name not in RESIZED:
        raise ConfigError(f"image_size: {image_size}, expected none with {name}; it is for {' and '.join(RESIZED)}")


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


def _cifar10(folder: Path, image_size: None) -> Dataset:
    return _dataset(cifar.read(cifar.CIFAR10, folder), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))


def _cifar100(folder: Path, image_size: None) -> Dataset:
    # The figures the public checkpoints were trained with.
    return _dataset(cifar.read(cifar.CIFAR100, folder), mean=(0.5070, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2761))


def _tiny_imagenet(folder: Path, image_size: int | None) -> Dataset:
    return _with_own_statistics(tiny_imagenet.read(folder, image_size))


def _folder(folder: Path, image_size: int | None) -> Dataset:
    return _with_own_statistics(image_folder.read(folder, image_size))


def _dataset(stored: Stored, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
    train, test = (Split(*map(torch.from_numpy, stored.splits[name])) for name in ("train", "test"))
    return Dataset(train, test, stored.class_names, mean, std)


def _with_own_statistics(stored: Stored) -> Dataset:
    """Mean and standard deviation of the training split's pixels."""
    images = torch.from_numpy(stored.splits["train"][0])
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    share = counts / counts.sum(dim=1, keepdim=True, dtype=torch.float64)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ levels
    variance = (share * (levels - mean[:, None]).square()).sum(dim=1)
    # A channel that never changes has to be divided by something.
    std = variance.sqrt().clamp(min=1 / 255)
    return _dataset(stored, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


_READERS: dict[str, Callable[[Path, Any], Dataset]] = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "tiny-imagenet": _tiny_imagenet,
    "folder": _folder,
}
