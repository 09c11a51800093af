"""Image files as one array."""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastadv.train.runtime.errors import DataError
from fastadv.train.runtime.extras import require
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.progress import Progress

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
CACHE = ".fastadv"
# Files a thread decodes in turn.
BATCH = 256


def images_in(folder: Path) -> list[Path]:
    """Return the image files in `folder`, known by their suffix, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def read_images(paths: Sequence[Path], size: int | None, *, root: Path, split: str) -> np.ndarray:
    """Return the images of a split in RGB, uint8 [N, 3, H, W].

    size: each is scaled to fill a square of that many pixels and cut to it around its centre (Pillow's ImageOps.fit,
    bicubic); None takes them as they are.
    root: the dataset's folder, which keeps the array in .fastadv/ until a file changes its name, size or time.
    Raises DataError naming the file that is missing, damaged, or without `size` of another shape than the first;
    MissingExtraError without Pillow.
    """
    path = root / CACHE / f"{split}-{size or 'own-size'}.npz"
    return _cached(path, _fingerprint(paths, root), lambda: _decode_all(paths, size, label=f"reading {split}"))


def _cached(path: Path, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in `path` where it was made for `key`; else a new one, kept there where that can be written.

    A fault of the file, or in writing it, is printed and stops nothing.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            if stored["key"].item() == key:
                return stored["array"]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        print(f"{path} is damaged and made anew ({error})", flush=True)
    array = make()
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, key=np.array(key), array=array))
    except OSError as error:
        print(f"not kept for the next run: {error}", flush=True)
    return array


def _fingerprint(paths: Sequence[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        digest.update(f"{path.relative_to(root)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _decode_all(paths: Sequence[Path], size: int | None, *, label: str) -> np.ndarray:
    """Decode with as many threads as there are processors: Pillow does so outside the interpreter's lock."""
    pillow = require("PIL.Image", "reading image files"), require("PIL.ImageOps", "reading image files")
    shape = _decode(pillow, paths[0], size).shape
    images = np.empty((len(paths), *shape), dtype=np.uint8)

    def decode_batch(start: int) -> None:
        for index in range(start, min(start + BATCH, len(paths))):
            image = _decode(pillow, paths[index], size)
            if image.shape != shape:
                raise DataError(
                    f"{paths[index]}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0]} has"
                    f" {shape[2]}x{shape[1]}; expected image_size, or images of one size"
                )
            images[index] = image

    starts = range(0, len(paths), BATCH)
    with (
        ThreadPoolExecutor() as pool,
        Progress(label, done=0, total=len(starts), images_per_step=BATCH) as progress,
    ):
        for _ in pool.map(decode_batch, starts):
            progress.step()
    return images


def _decode(pillow: tuple[Any, Any], path: Path, size: int | None) -> np.ndarray:
    pil_image, pil_ops = pillow
    try:
        with pil_image.open(path) as file:
            image = file.convert("RGB")
    except Exception as error:  # a damaged file can raise nearly anything
        raise DataError(f"{path}: no readable image ({type(error).__name__}: {error})") from error
    if size is not None and image.size != (size, size):
        image = pil_ops.fit(image, (size, size))
    return np.asarray(image).transpose(2, 0, 1)
