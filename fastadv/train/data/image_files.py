"""Image files as one array."""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastadv.train.data.splits import Arrays
from fastadv.train.runtime.errors import DataError
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.imports import require
from fastadv.train.runtime.progress import Progress

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
CACHE = ".fastadv"
# Files a thread decodes in turn.
BATCH = 256


def images_in(folder: Path) -> list[Path]:
    """Return the image files in `folder`, known by their suffix, in the order of their names. Raises DataError."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def others_in(folder: Path) -> list[Path]:
    """Return the files in `folder` that are no images by their suffix, but for hidden ones."""
    return [
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in SUFFIXES
    ]


def folders_in(folder: Path) -> list[str]:
    """Return the names of the folders in `folder`, in their order."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def read_split(
    files: Sequence[tuple[Path, int]], size: int | None, *, root: Path, split: str, grayscale: bool = False
) -> Arrays:
    """Return images and labels of a split's `files`, each with its label.

    Images are in RGB, uint8 [N, 3, H, W], or float32 in [0, 1] where files hold finer levels. Finer are images of one
    channel of 16 bits, or of floats in [0, 1]. Palettes and 1-bit images have their colours; an alpha channel must be
    opaque.

    size: each is scaled to fill a square of that many pixels and cut to it around its centre (Pillow's ImageOps.fit,
    bicubic); None takes them as they are.
    root: the dataset's folder, which keeps the array in .fastadv/ until a file changes its name, size or time.
    grayscale: one channel, [N, 1, H, W], in place of three.
    Raises DataError naming the file that is missing, damaged, transparent, of levels that would be lost, or of another
    shape (without `size`) or fineness than the first; MissingExtraError without Pillow.
    """
    paths, labels = zip(*files, strict=True)
    channels = 1 if grayscale else 3
    path = root / CACHE / f"{split}-{size or 'own-size'}{'-gray' if grayscale else ''}.npz"
    # The number of the way of reading: what an earlier one kept is made anew.
    key = f"2 {_fingerprint(paths, root)}"
    images = _cached(path, key, lambda: _decode_all(paths, size, channels, label=f"reading {split}"))
    return images, np.array(labels, dtype=np.int64)


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


def _decode_all(paths: Sequence[Path], size: int | None, channels: int, *, label: str) -> np.ndarray:
    """Decode with as many threads as there are processors: Pillow does so outside the interpreter's lock."""
    first = _decode(paths[0], size, channels)
    shape, images = first.shape, np.empty((len(paths), *first.shape), dtype=first.dtype)

    def decode_batch(start: int) -> None:
        for index in range(start, min(start + BATCH, len(paths))):
            image = _decode(paths[index], size, channels)
            if image.shape != shape:
                raise DataError(
                    f"{paths[index]}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0]} has"
                    f" {shape[2]}x{shape[1]}; expected image_size, or images of one size"
                )
            if image.dtype != first.dtype:
                raise DataError(
                    f"{paths[index]}: {image.dtype} levels, but {paths[0]} has {first.dtype}; expected one of both"
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


def _decode(path: Path, size: int | None, channels: int) -> np.ndarray:
    """Return an image [channels, H, W], uint8 or, where its levels are finer, float32 in [0, 1]."""
    pil_image, pil_ops = require("PIL.Image", "reading image files"), require("PIL.ImageOps", "reading image files")
    try:
        with pil_image.open(path) as file:
            fine = file.mode in ("F", "I") or file.mode.startswith("I;16")
            image = pil_image.fromarray(_fine(file, path), mode="F") if fine else _coarse(file, path, channels)
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise DataError(f"{path}: no readable image ({type(error).__name__}: {error})") from error
    if size is not None and image.size != (size, size):
        image = pil_ops.fit(image, (size, size))
    array = np.asarray(image)
    if array.ndim == 3:
        return array.transpose(2, 0, 1)
    # Bicubic scaling may overshoot.
    array = array.clip(0, 1) if fine else array
    return np.repeat(array[None], channels, axis=0)


def _coarse(file: Any, path: Path, channels: int) -> Any:
    """Return an image of 8 bits or fewer in RGB or gray."""
    if any(";16" in str(tile[-1]) for tile in file.tile):
        raise DataError(f"{path}: colours of 16 bits, of which Pillow reads 8; save them as 8 bits")
    if file.mode in ("RGBA", "LA", "PA") or "transparency" in file.info:
        lowest, _ = file.convert("RGBA").getchannel("A").getextrema()
        if lowest < 255:
            raise DataError(f"{path}: transparent in places, expected an opaque image")
    return file.convert("L" if channels == 1 else "RGB")


def _fine(file: Any, path: Path) -> np.ndarray:
    """Return an image of one channel of 16 bits or of floats as float32 in [0, 1]."""
    levels = np.asarray(file)
    if levels.dtype.kind in "iu":
        if not (file.mode.startswith("I;16") or file.format == "PNG"):
            raise DataError(f"{path}: integers of 32 bits, whose range is not known; expected 16 bits or floats")
        return (levels / (2**16 - 1)).astype(np.float32)
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > 1:
        raise DataError(f"{path}: floats from {levels.min():.4g} to {levels.max():.4g}, expected within [0, 1]")
    return levels.astype(np.float32)
