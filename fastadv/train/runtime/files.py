"""Files that survive a kill at any moment: written beside, flushed to the disk, renamed into place."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fastadv.train.runtime.errors import ConfigError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call write(file) so that `path` holds either all of it or what it held before, even after a power cut.

    Raises the OSError of a write that failed, such as that of a full disk, with the path.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        # Torch and numpy raise errors of their own where a write fails.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error


def write_text(path: Path, text: str) -> None:
    """:func:`write_atomically` of a text."""
    write_atomically(path, lambda file: file.write(text.encode()))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, which a killed one lets go of. Raises ConfigError where another holds it."""
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another process works in it") from None
        yield
