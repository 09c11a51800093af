"""Any folder of images: train/CLASS/* and test/CLASS/* or val/CLASS/*."""

from pathlib import Path

import numpy as np

from fastadv.train.data.image_files import images_in, read_images
from fastadv.train.data.splits import Arrays, Stored
from fastadv.train.runtime.errors import DataError


def read(folder: Path, size: int | None, *, grayscale: bool = False) -> Stored:
    """Read both splits; the classes are the folders in train/ in the order of their names.

    size, grayscale: see :func:`fastadv.train.data.image_files.read_images`.
    Raises DataError where a split, or a class or its images, is missing, or an image cannot be read.
    """
    train = folder / "train"
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(f"data_dir {folder}: expected train/CLASS/* and test/CLASS/* or val/CLASS/*")
    classes = _folders(train)
    if len(classes) < 2:
        raise DataError(f"{train}: {len(classes)} folders, expected one for each class, at least 2")
    if _folders(test) != classes:
        other = sorted(set(classes) ^ set(_folders(test)))
        raise DataError(f"{folder}: {train.name} and {test.name} differ in the classes {', '.join(other[:5])}")
    splits = {"train": _split(train, classes, size, grayscale), "test": _split(test, classes, size, grayscale)}
    shapes = {name: images.shape[2:] for name, (images, _) in splits.items()}
    if shapes["train"] != shapes["test"]:
        raise DataError(f"{folder}: images of {shapes['train']} in {train.name}, of {shapes['test']} in {test.name}")
    return Stored(splits, tuple(classes))


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _split(folder: Path, classes: list[str], size: int | None, grayscale: bool) -> Arrays:
    files = [images_in(folder / name) for name in classes]
    for name, found in zip(classes, files, strict=True):
        if not found:
            raise DataError(f"{folder / name}: no images")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(found) for found in files])
    paths = [path for found in files for path in found]
    return read_images(paths, size, root=folder.parent, split=folder.name, grayscale=grayscale), labels
