"""CIFAR-10 and CIFAR-100 from their official layouts (Krizhevsky 2009), without torchvision.

The Python layout holds pickles, the binary one rows of one label byte (CIFAR-100: two, coarse and fine) and 3072 pixels
as red, green and blue planes of 32 rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastadv.train.data import restricted_pickle
from fastadv.train.data.splits import Arrays, Stored, check_count, find_root
from fastadv.train.runtime.errors import DataError

PIXELS = 3 * 32 * 32
ROWS = {"train": 50_000, "test": 10_000}


@dataclass(frozen=True)
class Cifar:
    """Names in one of the two datasets' layouts.

    files: of each split; in the binary layout with the suffix .bin. labels: the entry of a pickle, label_bytes: of a
    row, of which the last counts. python_names: the file of the classes' names and the entry in it. mean, std: those of
    public checkpoints.
    """

    name: str
    classes: int
    python_folder: str
    files: dict[str, tuple[str, ...]]
    labels: str
    python_names: tuple[str, str]
    binary_folder: str
    label_bytes: int
    binary_names: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Cifar(
    name="CIFAR-10",
    classes=10,
    python_folder="cifar-10-batches-py",
    files={"train": tuple(f"data_batch_{batch}" for batch in range(1, 6)), "test": ("test_batch",)},
    labels="labels",
    python_names=("batches.meta", "label_names"),
    binary_folder="cifar-10-batches-bin",
    label_bytes=1,
    binary_names="batches.meta.txt",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
CIFAR100 = Cifar(
    name="CIFAR-100",
    classes=100,
    python_folder="cifar-100-python",
    files={"train": ("train",), "test": ("test",)},
    labels="fine_labels",
    python_names=("meta", "fine_label_names"),
    binary_folder="cifar-100-binary",
    label_bytes=2,
    binary_names="fine_label_names.txt",
    mean=(0.5070, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2761),
)


def read(cifar: Cifar, folder: Path, rows: dict[str, int] = ROWS) -> Stored:
    """Read both splits from whichever layout lies in `folder` (or is `folder`); the Python layout where both do.

    Class names are numbers where the layout has no names. `rows` is the number of images each split must have.
    Raises DataError naming the file when something is missing, damaged or of the wrong size.
    """
    layouts = (
        (cifar.python_folder, "", _read_pickle, _names_from_pickle),
        (cifar.binary_folder, ".bin", _read_rows, _names_from_text),
    )
    for name, suffix, read_file, read_names in layouts:
        files = {split: [f"{file}{suffix}" for file in cifar.files[split]] for split in rows}
        if place := find_root(folder, name, files["train"][0]):
            splits = {split: _join(read_file(cifar, place / file) for file in files[split]) for split in rows}
            for split, (_, labels) in splits.items():
                check_count(place, split, len(labels), rows)
                if labels.min() < 0 or labels.max() >= cifar.classes:
                    raise DataError(
                        f"{place}: {split} has labels {labels.min()}..{labels.max()}, expected 0..{cifar.classes - 1}"
                    )
            return Stored(splits, read_names(cifar, place), cifar.mean, cifar.std)
    python, binary = (f"{name}/{cifar.files['train'][0]}{suffix}" for name, suffix, *_ in layouts)
    raise DataError(
        f"data_dir {folder}: holds neither {python} nor {binary}; expected the unpacked {cifar.name} archive"
    )


read_cifar10, read_cifar100 = partial(read, CIFAR10), partial(read, CIFAR100)


def _join(parts: Iterable[Arrays]) -> Arrays:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _entry(rows: Any, key: str, path: Path) -> Any:
    """Return an entry under its bytes key (written by Python 2) or its str key."""
    if not isinstance(rows, dict):
        raise DataError(f"{path}: holds a {type(rows).__name__}, expected a dict")
    for spelling in (key.encode(), key):
        if spelling in rows:
            return rows[spelling]
    raise DataError(f"{path}: has no entry {key!r}")


def _read_pickle(cifar: Cifar, path: Path) -> Arrays:
    content = restricted_pickle.load(path)
    data, labels = _entry(content, "data", path), _entry(content, cifar.labels, path)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: 'data' is {found}, expected uint8 [N, {PIXELS}]")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: {cifar.labels!r} is not a list of {len(data)} integers")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _read_rows(cifar: Cifar, path: Path) -> Arrays:
    try:
        flat = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    width = cifar.label_bytes + PIXELS
    if flat.size == 0 or flat.size % width:
        raise DataError(f"{path}: {flat.size} bytes, expected a multiple of {width}")
    table = flat.reshape(-1, width)
    return table[:, -PIXELS:].reshape(-1, 3, 32, 32), table[:, -PIXELS - 1].astype(np.int64)


def _names_from_pickle(cifar: Cifar, place: Path) -> tuple[str, ...]:
    file, key = cifar.python_names
    names = _entry(restricted_pickle.load(place / file), key, place / file)
    if not isinstance(names, list) or len(names) != cifar.classes:
        raise DataError(f"{place / file}: {key!r} is not a list of {cifar.classes} names")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _names_from_text(cifar: Cifar, place: Path) -> tuple[str, ...]:
    path = place / cifar.binary_names
    if not path.is_file():
        return tuple(str(label) for label in range(cifar.classes))
    names = tuple(path.read_text().split())
    if len(names) != cifar.classes:
        raise DataError(f"{path}: {len(names)} names, expected {cifar.classes}")
    return names
