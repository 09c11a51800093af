"""Any folder of images: train/CLASS/* and test/CLASS/* or val/CLASS/*."""

from pathlib import Path

import torch

from fastadv.distill.parts.seeding import generator
from fastadv.train.data.image_files import folders_in, images_in, others_in, read_split
from fastadv.train.data.splits import Arrays, Stored
from fastadv.train.runtime.errors import DataError


def read(folder: Path, size: int | None, *, grayscale: bool = False) -> Stored:
    """Read both splits; the classes are the folders in train/ in the order of their names.

    Test images are in a random order, always the same: an evaluation on the first of them is one on a random draw,
    where in the order of their names it would be on the first classes alone.

    size, grayscale: see :func:`fastadv.train.data.image_files.read_split`.
    Raises DataError where a split, or a class or its images, is missing, or an image cannot be read.
    """
    train = folder / "train"
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(f"data_dir {folder}: expected train/CLASS/* and test/CLASS/* or val/CLASS/*")
    classes = folders_in(train)
    if len(classes) < 2:
        raise DataError(f"{train}: {len(classes)} folders, expected one for each class, at least 2")
    if other := sorted(set(classes) ^ set(folders_in(test))):
        raise DataError(f"{folder}: {train.name} and {test.name} differ in the classes {', '.join(other[:5])}")
    splits = {
        split: read_split(_files(place, classes), size, root=folder, split=place.name, grayscale=grayscale)
        for split, place in (("train", train), ("test", test))
    }
    shapes = {name: images.shape[2:] for name, (images, _) in splits.items()}
    if shapes["train"] != shapes["test"]:
        raise DataError(f"{folder}: images of {shapes['train']} in {train.name}, of {shapes['test']} in {test.name}")
    return Stored({**splits, "test": _shuffled(splits["test"])}, tuple(classes))


def _shuffled(split: Arrays) -> Arrays:
    order = torch.randperm(len(split[1]), generator=generator(0, "test images")).numpy()
    return split[0][order], split[1][order]


def _files(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    files = [(path, label) for label, name in enumerate(classes) for path in images_in(folder / name)]
    for label in set(range(len(classes))) - {label for _, label in files}:
        raise DataError(f"{folder / classes[label]}: no images")
    if others := [path for name in classes for path in others_in(folder / name)]:
        suffixes = ", ".join(sorted({path.suffix for path in others} - {""}) or ["none"])
        print(f"{folder}: left out as no images, by their suffix: {len(others)} ({suffixes})", flush=True)
    return files
