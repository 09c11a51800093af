"""An archive, unpacked whole or not at all."""

import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from fastadv.train.runtime.errors import DataError


def unpack(archive: Path, dest: Path, folder: str) -> None:
    """The `folder` that a tar or zip `archive` holds, into `dest`.

    It appears there when all of it is written. Members that would lie outside it are refused (tar: the filter "data")
    or kept inside (zip). Raises DataError where the archive is damaged, unsafe, or holds no such folder.
    """
    work = dest / f".{folder}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(work)
        else:
            with tarfile.open(archive) as file:
                file.extractall(work, filter="data")
        if not (work / folder).is_dir():
            raise DataError(f"{archive}: holds no folder {folder}")
        (work / folder).replace(dest / folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({type(error).__name__}: {error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
