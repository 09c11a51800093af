"""CIFAR-100 in files of at most so many MiB, for a machine that takes no more at a time: ``pack.py DATA_DIR OUT``.

The files are the slices of one archive, about 105 MiB, that ends with its SHA-256. Pixels are stored without loss: what
a pixel differs from the one that its neighbours let expect, as in LOCO-I (Weinberger 2000), by bzip2. To unpack them
takes numpy, and a few seconds.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

MIB = 2**20
FOLDER = "cifar-100-python"
# The official layouts, as they are read, and the least bytes of each file.
LAYOUTS = {
    FOLDER: {"train": 50_000 * 3072, "test": 10_000 * 3072, "meta": 1},
    "cifar-100-binary": {"train.bin": 50_000 * 3074, "test.bin": 10_000 * 3074},
}
SHAPE = (3, 32, 32)
# Images that are compressed together, each lot in a thread.
LOT = 5000

Splits = Mapping[str, tuple[np.ndarray, Sequence[int]]]


def pack(splits: Splits, names: Sequence[str], out: Path, largest: int) -> list[Path]:
    """Write the parts, each of at most ``largest`` bytes, in place of any that are there.

    splits: of each split the images, uint8 [N, 3, 32, 32], and the labels.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, ThreadPoolExecutor(os.cpu_count()) as threads:
        archive.writestr("labels", json.dumps({split: list(labels) for split, (_, labels) in splits.items()}))
        archive.writestr("names", json.dumps(list(names)))
        for split, (images, _) in splits.items():
            lots = (images[start : start + LOT] for start in range(0, len(images), LOT))
            for number, lot in enumerate(threads.map(_compressed, lots)):
                archive.writestr(f"{split}/{number:03d}", lot)
    whole = content.getvalue()
    whole += hashlib.sha256(whole).digest()
    count = -(-len(whole) // largest)
    each = -(-len(whole) // count)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(_name("*", "*")):
        old.unlink()
    parts = [out / _name(number, count) for number in range(1, count + 1)]
    for number, part in enumerate(parts):
        part.write_bytes(whole[number * each : (number + 1) * each])
    return parts


def find(folder: Path, unpacked: Path) -> tuple[Path, bytes]:
    """Return the folder that holds CIFAR-100, and what is to be unpacked there first, empty where nothing is.

    ``folder`` itself where an official layout is in it; else one in ``unpacked`` that has the name of the content of
    its parts. ValueError where there is neither.
    """
    for place, files in ((place, files) for name, files in LAYOUTS.items() for place in (folder / name, folder)):
        if all((place / file).is_file() for file in files):
            for file, least in files.items():
                if (found := (place / file).stat().st_size) < least:
                    raise ValueError(f"{place / file} has {found} bytes, expected at least {least}")
            return folder, b""
    parts = sorted(folder.glob(_name("*", "*")))
    count = int(parts[0].name.rpartition("-")[2]) if parts else 0
    names = [_name(number, count) for number in range(1, count + 1)]
    missing = [name for name in names if not (folder / name).exists()]
    if missing or not parts:
        raise ValueError(f"{folder} holds neither {' nor '.join(LAYOUTS)} nor {', '.join(missing) or _name('I', 'N')}")
    whole = b"".join((folder / name).read_bytes() for name in names)
    content, digest = whole[:-32], whole[-32:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError(f"{folder}: the parts of CIFAR-100 are damaged, or not of one archive; pack them again")
    place = unpacked / digest.hex()[:16]
    return place, b"" if (place / FOLDER).is_dir() else content


def unpack(content: bytes, place: Path) -> None:
    """Write the official layout of pickles into the folder ``place``, whole or not at all."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive, ThreadPoolExecutor(os.cpu_count()) as threads:
        labels, names = (json.loads(archive.read(name)) for name in ("labels", "names"))
        lots = {name: archive.read(name) for name in sorted(archive.namelist()) if "/" in name}
        images = dict(zip(lots, threads.map(_images, lots.values()), strict=True))
    splits = {
        split: (np.concatenate([lot for name, lot in images.items() if name.startswith(f"{split}/")]), labels[split])
        for split in labels
    }
    draft = place.with_suffix(".unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    write_pickles(draft, splits, names)
    os.replace(draft, place)


def write_pickles(place: Path, splits: Splits, names: Sequence[str]) -> None:
    """Write what is read of the official layout, fine labels alone, into the folder that ``place`` is given."""
    folder = place / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, dict[bytes, Any]] = {
        split: {b"data": images.reshape(len(images), -1), b"fine_labels": list(labels)}
        for split, (images, labels) in splits.items()
    }
    content["meta"] = {b"fine_label_names": [name.encode() for name in names]}
    for file, entries in content.items():
        (folder / file).write_bytes(pickle.dumps(entries, protocol=4))


def _name(number: int | str, count: int | str) -> str:
    return f"cifar-100.part-{number}-of-{count}"


def _compressed(images: np.ndarray) -> bytes:
    x = images.astype(np.int16)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0)))
    wrong = (x - _expected(padded[:, :, 1:, :-1], padded[:, :, :-1, 1:], padded[:, :, :-1, :-1])).astype(np.uint8)
    # Red and blue err as green does.
    wrong[:, ::2] -= wrong[:, 1:2]
    return bz2.compress(wrong.swapaxes(0, 1).tobytes())


def _images(lot: bytes) -> np.ndarray:
    wrong = np.frombuffer(bz2.decompress(lot), np.uint8).reshape(SHAPE[0], -1, *SHAPE[1:]).copy()
    wrong[::2] += wrong[1]
    # Pixel by pixel, of all images at once.
    wrong = np.ascontiguousarray(wrong.transpose(2, 3, 0, 1)).astype(np.int16)
    rows, columns, *others = wrong.shape
    x = np.zeros((rows + 1, columns + 1, *others), np.int16)
    for row in range(rows):
        for column in range(columns):
            expected = _expected(x[row + 1, column], x[row, column + 1], x[row, column])
            x[row + 1, column + 1] = (expected + wrong[row, column]) & 255
    return np.ascontiguousarray(x[1:, 1:].transpose(3, 2, 0, 1)).astype(np.uint8)


def _expected(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Return the median of both neighbours and of the plane through all three."""
    return np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder that holds CIFAR-100 in an official layout")
    parser.add_argument("out", type=Path, help="folder for the parts")
    parser.add_argument("--largest", type=float, default=55, help="MiB of a part (default: 55)")
    asked = parser.parse_args(None if arguments is None else list(arguments))

    from fastadv.train.data import cifar  # loads torch, which the other way does without

    stored = cifar.read_cifar100(asked.data_dir)
    splits = {split: (images, labels.tolist()) for split, (images, labels) in stored.splits.items()}
    for part in pack(splits, stored.class_names, asked.out, int(asked.largest * MIB)):
        print(f"{part}: {part.stat().st_size / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
