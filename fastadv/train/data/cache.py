"""An array that takes long to make, kept in a file for the next run."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastadv.train.runtime.checkpoint import write_atomically


def cached(path: Path, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `path` where it was made for `key`; else a new one, kept there where that can be written.

    What is wrong with the file, or with writing it, is said and stops nothing.
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
