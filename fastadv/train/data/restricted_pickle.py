"""An unpickler for files that hold dicts, lists, bytes, strings, integers and uint8 arrays, and nothing else."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fastadv.train.runtime.errors import DataError


class _ArrayType:
    """Stands for numpy.ndarray, which such files only name as an argument of _reconstruct."""

    __slots__ = ()


class _Reconstruct:
    """numpy's _reconstruct, for the empty array that numpy pickles fill in afterwards."""

    __slots__ = ()

    def __call__(self, kind: object, shape: tuple[int, ...], typecode: object) -> np.ndarray:
        if kind is not _ArrayType or shape != (0,) or typecode not in (b"b", "b"):
            raise pickle.UnpicklingError("an array that is not a plain numpy array")
        return np.empty(0, dtype=np.int8)


class _Uint8:
    """numpy.dtype, for uint8 alone: object arrays could hold anything."""

    __slots__ = ()

    def __call__(self, name: object, *flags: object) -> np.dtype:
        if name not in (b"u1", "u1"):
            raise pickle.UnpicklingError(f"an array of type {name!r}, expected uint8")
        return np.dtype(np.uint8)


class _EncodeLatin1:
    """_codecs.encode as Python 3 uses it to write bytes in protocol 2."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"text encoded as {encoding!r}, expected 'latin1'")
        return text.encode("latin1")


# Stand-ins without attributes, not numpy's own objects: a pickle can call what it finds and set attributes on it.
_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Uint8(),
    ("_codecs", "encode"): _EncodeLatin1(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise DataError(f"the pickle names {module}.{name}, which a dataset file has no need of") from None


def load(path: Path) -> Any:
    """Read one pickle. Strings written by Python 2 come back as bytes.

    Raises DataError naming the file when it is missing, damaged, or names anything but the globals of a uint8 array.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: damaged pickle ({type(error).__name__}: {error})") from error
