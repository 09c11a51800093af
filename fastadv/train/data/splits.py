"""A dataset: its files as arrays, and its splits on the device as uint8."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastadv.distill.parts.seeding import generator
from fastadv.train.runtime.digests import sha256_of_tensors
from fastadv.train.runtime.errors import ConfigError, DataError

Arrays = tuple[np.ndarray, np.ndarray]


class Stored(NamedTuple):
    """A dataset as its files hold it.

    splits: {"train": (images [N, C, H, W], uint8 or float32 in [0, 1], and labels int64 [N]), "test": ...}.
    class_names: by label.
    mean, std: per channel, of pixels in [0, 1]; none leaves them to be computed from the training split.
    """

    splits: dict[str, Arrays]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def find_root(folder: Path, name: str, marker: str) -> Path | None:
    """Return `name` in `folder`, or `folder` itself, whichever holds the file `marker`; None where neither does."""
    return next((place for place in (folder / name, folder) if (place / marker).is_file()), None)


def check_count(place: Path, split: str, found: int, rows: dict[str, int]) -> None:
    """Raise DataError where a split has not as many images as it should."""
    if found != rows[split]:
        raise DataError(f"{place}: {split} has {found} images, expected {rows[split]}")


@dataclass(frozen=True)
class Split:
    """Images [N, C, H, W], uint8 or float32 in [0, 1], and labels int64 [N], on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Split":
        return Split(self.images[part], self.labels[part])

    def sha256(self) -> str:
        """Return the SHA-256 of images and labels, in their order."""
        return sha256_of_tensors({"images": self.images, "labels": self.labels})


@dataclass(frozen=True)
class Dataset:
    """A training and a test split, their classes, and mean and std of each channel of their pixels in [0, 1]."""

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
    """Return images [N, C, H, W], uint8 or float32 already, as float32 pixels in [0, 1]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pixels = images.to(torch.float32, memory_format=layout)
    return pixels if images.is_floating_point() else pixels.div_(255)


def stratified_order(labels: Tensor, *, seed: int) -> Tensor:
    """Return indices [N] in a random order in which every prefix holds all classes as equally as it can."""
    shuffled = torch.randperm(len(labels), generator=generator(seed, "stratified"))
    grouped = shuffled[torch.argsort(labels.cpu()[shuffled], stable=True)]
    counts = torch.bincount(labels.cpu())
    rank_in_class = torch.cat([torch.arange(int(count)) for count in counts])
    return grouped[torch.argsort(rank_in_class, stable=True)]


def lacking_classes(split: Split, images: int) -> str | None:
    """Return the sentence that the first ``images`` of a split lack some of its classes; None where they do not."""
    there, first = (len(labels.unique()) for labels in (split.labels, split.labels[:images]))
    return None if first == there else f"the first {images} test images are of {first} of the {there} classes alone"


def subset(split: Split, size: int | None, *, seed: int) -> Split:
    """Draw `size` images of `split` by class; None is all of them. Raises ConfigError when there are fewer."""
    if size is None:
        return split
    if not 0 < size <= len(split):
        raise ConfigError(f"student_samples: {size}, expected 1..{len(split)}")
    chosen = stratified_order(split.labels, seed=seed)[:size].to(split.labels.device)
    return Split(split.images[chosen], split.labels[chosen])


def from_stored(stored: Stored, device: torch.device | str = "cpu") -> Dataset:
    """Make the dataset of these arrays, on ``device``."""
    train, test = (
        Split(*(torch.from_numpy(array).to(device) for array in stored.splits[name])) for name in ("train", "test")
    )
    mean, std = (stored.mean, stored.std) if stored.mean else _statistics(stored.splits["train"][0])
    return Dataset(train, test, stored.class_names, mean, std)


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of the pixels of ``images`` [N, C, H, W]."""
    channels = torch.from_numpy(images).unbind(1)
    if images.dtype == np.uint8:
        counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in channels])
        share = counts / counts.sum(dim=1, keepdim=True, dtype=torch.float64)
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean = share @ levels
        std = (share * (levels - mean[:, None]).square()).sum(dim=1).sqrt()
    else:
        found = [torch.std_mean(channel.double(), correction=0) for channel in channels]
        std, mean = (torch.stack(each) for each in zip(*found, strict=True))
    # A channel that never changes has to be divided by something.
    return tuple(mean.tolist()), tuple(std.clamp(min=1 / 255).tolist())
