"""The datasets by name. Importing this imports no torch."""

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fastadv.train.runtime import imports
from fastadv.train.runtime.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    import torch

    from fastadv.train.data.splits import Dataset, Split

Augmentation = Literal["none", "shift1", "crop4_flip"]


@dataclass(frozen=True)
class DatasetEntry:
    """MODULE:FUNCTION of this package, called with the folder, which gives splits.Stored.

    layout: what the folder holds; None where the data come with a library. resized: whether images are scaled to
    image_size, the function's second argument. shuffled: whether it puts the test images in a random order.
    """

    reader: str
    layout: str | None = None
    resized: bool = False
    shuffled: bool = False


# A new dataset is a line here.
DATASETS = {
    "digits": DatasetEntry("sklearn_digits:read"),
    "cifar10": DatasetEntry("cifar:read_cifar10", "cifar-10-batches-py or cifar-10-batches-bin"),
    "cifar100": DatasetEntry("cifar:read_cifar100", "cifar-100-python or cifar-100-binary"),
    "tiny-imagenet": DatasetEntry("tiny_imagenet:read", "tiny-imagenet-200", resized=True),
    "folder": DatasetEntry(
        "image_folder:read",
        "train/CLASS/* and test/CLASS/* or val/CLASS/*, image files that Pillow reads",
        resized=True,
        shuffled=True,
    ),
}
_LAYOUTS = {name: entry.layout for name, entry in DATASETS.items() if entry.layout is not None}
_RESIZED = [name for name, entry in DATASETS.items() if entry.resized]
# Help of the flags of both commands.
DATA = f"{', '.join(DATASETS)}, or MODULE:FUNCTION of your own, which gives (train, test)"
DATA_DIR = "folder that holds, for " + "; for ".join(f"{name}, {layout}" for name, layout in _LAYOUTS.items())
IMAGE_SIZE = f"scale and cut the images of {' or '.join(_RESIZED)} to squares of this side; none keeps theirs"

FIRST = "the first are a random draw of a folder, and of other data those in its own order"


# The lines of origin.json that identify the images of a split.
TRAINING_IMAGES, TEST_IMAGES = "Training images SHA-256", "Test images SHA-256"


def image_facts(name: str, *, test: "Split", train: "Split | None" = None) -> dict[str, str]:
    """Return the lines of origin.json that identify the images and labels of the splits, and the test images' order."""
    of_train = {} if train is None else {TRAINING_IMAGES: train.sha256()}
    return {**order_facts(name), **of_train, TEST_IMAGES: test.sha256()}


def order_facts(name: str) -> dict[str, str]:
    """Return the line of origin.json on the order of the test images, where that is not the data's own."""
    entry = DATASETS.get(name)
    return {"Test images": "in a random order, always the same"} if entry is not None and entry.shuffled else {}


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    image_size: int | None = None,
    grayscale: bool = False,
    device: "torch.device | str" = "cpu",
) -> "Dataset":
    """Load the dataset ``name`` of DATASETS, or MODULE:FUNCTION of one's own, on ``device``.

    data_dir: the folder that holds it, laid out as its entry says; one's own function may take it.
    image_size: the side that images are scaled and cut to; None keeps theirs.
    grayscale: read one channel, of a folder.

    Raises ConfigError for arguments that check_source refuses, DataError for missing or damaged files,
    MissingExtraError where a library is missing that reads them.
    """
    check_source(name, data_dir, image_size, grayscale)
    from fastadv.train.data.splits import from_stored

    if imports.is_own(name):
        from fastadv.train.data import own_data

        return from_stored(own_data.read(name, data_dir), device)
    if data_dir is not None and not data_dir.is_dir():
        raise DataError(f"data_dir {data_dir}: no such folder")
    read = pkgutil.resolve_name(f"fastadv.train.data.{DATASETS[name].reader}")
    sizes = [image_size] if DATASETS[name].resized else []
    options = {"grayscale": True} if grayscale else {}
    return from_stored(read(data_dir, *sizes, **options), device)


def check_name(name: str) -> None:
    """Raise ConfigError for a name that is neither in DATASETS nor one's own."""
    if imports.is_own(name):
        imports.find_own("data", name)
    elif name not in DATASETS:
        raise unknown_name("data", name, DATASETS, DATA)


def check_source(name: str, data_dir: Path | None, image_size: int | None, grayscale: bool = False) -> None:
    """Raise ConfigError for an unknown name, a missing data_dir, and what the dataset has no use for."""
    check_name(name)
    if data_dir is None and name in _LAYOUTS:
        raise ConfigError(f"data_dir: None, expected the folder that holds {_LAYOUTS[name]}")
    if image_size is not None and name not in _RESIZED:
        raise ConfigError(f"image_size: {image_size}, expected none with {name}; it is for {' and '.join(_RESIZED)}")
    if grayscale and name != "folder":
        raise ConfigError(f"grayscale: True, expected no with {name}; it is for folder")
