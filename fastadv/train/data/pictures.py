"""Image files as one array."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from fastadv.train.errors import DataError
from fastadv.train.extras import require
from fastadv.train.progress import Progress

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def images_in(folder: Path) -> list[Path]:
    """The image files in `folder`, known by their suffix, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def decode(paths: Sequence[Path], size: int | None, *, label: str) -> np.ndarray:
    """The images in RGB, uint8 [N, 3, H, W], decoded by as many threads as there are processors.

    size: each is scaled to fill a square of that many pixels and cut to it around its centre (Pillow's ImageOps.fit,
    bicubic); None takes them as they are. label: what the progress is called.
    Raises DataError naming the file that is no image, damaged, or without `size` of another shape than the first;
    MissingExtraError without Pillow.
    """
    pillow = require("PIL.Image", "reading image files"), require("PIL.ImageOps", "reading image files")
    first = _decode(pillow, paths[0], size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    with (
        ThreadPoolExecutor() as pool,
        Progress(label, done=0, total=len(paths), images_per_step=1) as progress,
    ):
        for index, image in enumerate(pool.map(lambda path: _decode(pillow, path, size), paths)):
            if image.shape != first.shape:
                raise DataError(
                    f"{paths[index]}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0]} has"
                    f" {first.shape[2]}x{first.shape[1]}; expected image_size, or images of one size"
                )
            images[index] = image
            progress.step()
    return images


def _decode(pillow: tuple[Any, Any], path: Path, size: int | None) -> np.ndarray:
    pil_image, pil_ops = pillow
    try:
        with pil_image.open(path) as file:
            image = file.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged file can raise nearly anything
        raise DataError(f"{path}: no readable image ({type(error).__name__}: {error})") from error
    if size is not None and image.size != (size, size):
        image = pil_ops.fit(image, (size, size))
    return np.asarray(image).transpose(2, 0, 1)
