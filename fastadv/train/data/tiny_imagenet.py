"""Tiny-ImageNet-200 from its official layout (Stanford CS231n): 200 classes of ImageNet at 64x64.

train/WNID/images/*.JPEG, 500 a class; val/images/*.JPEG with val/val_annotations.txt (rows of file, WNID and a box), 50
a class, which is the test split here: the official one has no labels. words.txt: rows of WNID and its names.
"""

from pathlib import Path

from fastadv.train.data.image_files import folders_in, images_in, read_split
from fastadv.train.data.splits import Stored, check_count, find_root
from fastadv.train.runtime.errors import DataError

FOLDER = "tiny-imagenet-200"
CLASSES = 200
ROWS = {"train": 500 * CLASSES, "test": 50 * CLASSES}


def read(folder: Path, size: int | None = None, *, classes: int = CLASSES, rows: dict[str, int] = ROWS) -> Stored:
    """Read both splits from tiny-imagenet-200 in `folder` (or `folder` itself); labels in the order of the WNIDs.

    size: see :func:`fastadv.train.data.image_files.read_split`. `classes` and `rows` are what must be there.
    Raises DataError naming the file or folder when something is missing, damaged or of the wrong size.
    """
    place = find_root(folder, FOLDER, "val/val_annotations.txt")
    if place is None or not (train := place / "train").is_dir():
        raise DataError(
            f"data_dir {folder}: expected {FOLDER} with train/WNID/images and val/val_annotations.txt,"
            " the unpacked Tiny-ImageNet archive"
        )
    wnids = folders_in(train)
    if len(wnids) != classes:
        raise DataError(f"{train}: {len(wnids)} folders, expected {classes}")
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    files = {
        "train": [(path, label) for wnid, label in label_of.items() for path in images_in(train / wnid / "images")],
        "test": _validation_files(place / "val", label_of),
    }
    for split, found in files.items():
        check_count(place, split, len(found), rows)
    splits = {split: read_split(found, size, root=place, split=split) for split, found in files.items()}
    return Stored(splits, _names(place / "words.txt", wnids))


def _validation_files(folder: Path, label_of: dict[str, int]) -> list[tuple[Path, int]]:
    annotations = folder / "val_annotations.txt"
    rows = [line.split("\t") for line in annotations.read_text().splitlines() if line]
    for row in rows:
        if len(row) < 2 or row[1] not in label_of:
            raise DataError(f"{annotations}: {' '.join(row)!r}, expected a file and a WNID of the training split")
    return [(folder / "images" / row[0], label_of[row[1]]) for row in rows]


def _names(path: Path, wnids: list[str]) -> tuple[str, ...]:
    """Return the first name of each WNID; the WNID where there is none."""
    lines = path.read_text().splitlines() if path.is_file() else []
    names = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(names.get(wnid, wnid).partition(",")[0] for wnid in wnids)
