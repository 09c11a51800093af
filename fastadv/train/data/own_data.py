"""The data that a function of the user's own gives: (train, test)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from fastadv.distill.parts.seeding import derive_seed
from fastadv.train.data.splits import Arrays, Stored
from fastadv.train.runtime import imports
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.seeded import seeded


def read(name: str, folder: Path | None) -> Stored:
    """Read the splits of MODULE:FUNCTION, which is given ``data_dir`` where it takes that.

    It returns (train, test): each a pair of tensors, images [N, C, H, W], uint8 or float in [0, 1], and integer labels
    [N]; or a map-style torch Dataset of (image [C, H, W], label), each entry of which is read once. What it draws from
    torch, numpy and random is the same in every run.
    Raises ConfigError naming what is not so.
    """
    with seeded(derive_seed(0, "data")):
        splits = imports.call_own("data", name, data_dir=folder)
        if not isinstance(splits, (tuple, list)) or len(splits) != 2:
            raise ConfigError(f"data: {name!r} gave {type(splits).__name__}, expected (train, test)")
        train = _split(f"data: {name!r}, train", splits[0])
        test = _split(f"data: {name!r}, test", splits[1])
    if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype != test[0].dtype:
        kinds = " and ".join(f"{images.dtype} {list(images.shape[1:])}" for images, _ in (train, test))
        raise ConfigError(f"data: {name!r} has images of {kinds}, expected one kind and size in train and test")
    classes = 1 + max(int(labels.max()) for _, labels in (train, test))
    if classes < 2:
        raise ConfigError(f"data: {name!r} has the label 0 alone, expected at least two classes")
    return Stored({"train": train, "test": test}, tuple(map(str, range(classes))))


def _split(where: str, split: Any) -> Arrays:
    expected = "expected a pair of tensors (images, labels), or a map-style Dataset of such"
    if not isinstance(split, (tuple, list, Tensor)):
        try:
            split = default_collate([split[index] for index in range(len(split))])
        except Exception as error:  # a dataset may raise anything
            raise ConfigError(f"{where}: {type(error).__name__}: {error}, {expected}") from error
    if not isinstance(split, (tuple, list)) or [isinstance(each, Tensor) for each in split] != [True, True]:
        raise ConfigError(f"{where}: got {type(split).__name__}, {expected}")
    images, labels = (each.detach().cpu() for each in split)
    if images.dim() != 4 or labels.shape != images.shape[:1] or not len(labels):
        shapes = f"{list(images.shape)} and {list(labels.shape)}"
        raise ConfigError(f"{where}: got {shapes}, expected images [N, C, H, W] and labels [N]")
    if images.is_floating_point():
        images = images.float()
        if not (images.min() >= 0 and images.max() <= 1):
            raise ConfigError(
                f"{where}: floats from {images.min():.4g} to {images.max():.4g}, expected pixels in [0, 1]"
            )
    elif images.dtype != torch.uint8:
        raise ConfigError(f"{where}: images of {images.dtype}, expected uint8, or floats in [0, 1]")
    if labels.is_floating_point() or labels.is_complex() or labels.min() < 0:
        raise ConfigError(f"{where}: labels of {labels.dtype} from {labels.min()} on, expected integers from 0 on")
    return images.numpy(), labels.long().numpy()
