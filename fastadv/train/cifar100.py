"""CIFAR-100 from its two official layouts (Krizhevsky 2009), without torchvision.

cifar-100-python/{train,test,meta}: pickles; cifar-100-binary/{train,test}.bin: rows of 3074 bytes (coarse label, fine
label, 3072 pixels as red, green and blue planes of 32 rows).
"""

from pathlib import Path
from typing import Any

import numpy as np

from fastadv.train import restricted_pickle
from fastadv.train.errors import DataError

CLASSES = 100
PIXELS = 3 * 32 * 32
ROWS = {"train": 50_000, "test": 10_000}

Arrays = tuple[np.ndarray, np.ndarray]


def read(folder: Path, rows: dict[str, int] = ROWS) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """Both splits from whichever layout lies in `folder` (or is `folder`); the Python layout where both do.

    Returns {"train": (images uint8 [N, 3, 32, 32], fine labels int64 [N]), "test": ...} and the 100 class names (their
    numbers where the layout has no names). `rows` is the number of images each split must have.
    Raises DataError naming the file when something is missing, damaged or of the wrong size.
    """
    for candidate in (folder / "cifar-100-python", folder):
        if (candidate / "train").is_file():
            splits = {split: _read_pickle(candidate / split) for split in rows}
            names = _names_from_meta(candidate / "meta")
            break
    else:
        for candidate in (folder / "cifar-100-binary", folder):
            if (candidate / "train.bin").is_file():
                splits = {split: _read_rows(candidate / f"{split}.bin") for split in rows}
                names = _names_from_text(candidate / "fine_label_names.txt")
                break
        else:
            raise DataError(
                f"data_dir {folder}: holds neither cifar-100-python/train nor cifar-100-binary/train.bin; "
                "expected the unpacked CIFAR-100 archive"
            )
    for split, (images, labels) in splits.items():
        if len(images) != rows[split]:
            raise DataError(f"{candidate}: {split} has {len(images)} images, expected {rows[split]}")
        if labels.min() < 0 or labels.max() >= CLASSES:
            raise DataError(
                f"{candidate}: {split} has labels {labels.min()}..{labels.max()}, expected 0..{CLASSES - 1}"
            )
    return splits, names


def _entry(rows: Any, key: str, path: Path) -> Any:
    """An entry under its bytes key (written by Python 2) or its str key."""
    if not isinstance(rows, dict):
        raise DataError(f"{path}: holds a {type(rows).__name__}, expected a dict")
    for spelling in (key.encode(), key):
        if spelling in rows:
            return rows[spelling]
    raise DataError(f"{path}: has no entry {key!r}")


def _read_pickle(path: Path) -> Arrays:
    content = restricted_pickle.load(path)
    data, labels = _entry(content, "data", path), _entry(content, "fine_labels", path)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{path}: 'data' is {found}, expected uint8 [N, {PIXELS}]")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: 'fine_labels' is not a list of {len(data)} integers")
    return data.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _read_rows(path: Path) -> Arrays:
    try:
        flat = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    width = 2 + PIXELS
    if flat.size == 0 or flat.size % width:
        raise DataError(f"{path}: {flat.size} bytes, expected a multiple of {width}")
    table = flat.reshape(-1, width)
    return table[:, 2:].reshape(-1, 3, 32, 32), table[:, 1].astype(np.int64)


def _names_from_meta(path: Path) -> tuple[str, ...]:
    names = _entry(restricted_pickle.load(path), "fine_label_names", path)
    if not isinstance(names, list) or len(names) != CLASSES:
        raise DataError(f"{path}: 'fine_label_names' is not a list of {CLASSES} names")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


def _names_from_text(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(label) for label in range(CLASSES))
    names = tuple(path.read_text().split())
    if len(names) != CLASSES:
        raise DataError(f"{path}: {len(names)} names, expected {CLASSES}")
    return names
