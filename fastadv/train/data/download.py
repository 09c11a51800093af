"""Datasets from their official addresses: fetched whole, checked, and unpacked whole or not at all."""

import hashlib
import shutil
import tarfile
import time
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from fastadv.train.runtime.errors import ConfigError, DataError

CHUNK = 1 << 20
SILENCE = 60.0  # seconds that a server may take to say something
SECONDS_BETWEEN_LINES = 5.0
MEGABYTE = 1e6


@dataclass(frozen=True)
class Archive:
    """An archive at its official address, with its published md5, and the folder it holds."""

    url: str
    md5: str
    folder: str

    @property
    def file(self) -> str:
        """Its name on disk, whatever address it comes from."""
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
    ),
    "tiny-imagenet": Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        folder="tiny-imagenet-200",
    ),
}


def fetch(name: str, dest: Path, *, url: str | None = None) -> None:
    """Download the dataset ``name`` of ARCHIVES and unpack it into ``dest``, unless it is there; say so.

    url: another address of the same file. Raises ConfigError and DataError as :func:`download` and :func:`unpack`.
    """
    archive = ARCHIVES[name]
    if (dest / archive.folder).is_dir():
        print(f"{dest / archive.folder} is there already; delete it to fetch it anew")
    else:
        dest.mkdir(parents=True, exist_ok=True)
        file = dest / archive.file
        url = url or archive.url
        print(f"{name}: {url}", flush=True)
        download(url, file, md5=archive.md5)
        unpack(file, dest, archive.folder)
        file.unlink()
        print(f"unpacked: {dest / archive.folder}")
    print(f"use it with: --data {name} --data-dir {dest}")


def download(url: str, path: Path, *, md5: str) -> None:
    """Fetch `url` to `path`, unless it is there already.

    What has come is in `path`.part; where that exists, only the rest is asked for (a server that does not know HTTP
    ranges sends all of it again).
    Raises ConfigError for an address that is not HTTP; DataError where the server cannot be reached, refuses, or stops
    early, which leaves the part to be continued; and where the md5 is another one, which deletes it.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"url: {url!r}, expected an address that begins with http:// or https://")
    if path.is_file() and _md5(path) == md5:
        return
    part = path.with_name(f"{path.name}.part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=SILENCE) as response:
            if response.status != 206:
                done = 0
            elif not (response.headers["Content-Range"] or "").startswith(f"bytes {done}-"):
                raise DataError(f"{url}: asked for bytes from {done}, got {response.headers['Content-Range']!r}")
            _receive(response, part, done)
    except HTTPError as error:
        if error.code != 416 or not done:  # 416: nothing follows what is there
            raise DataError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url}: {getattr(error, 'reason', error)}; what has come is kept, the same command continues"
        ) from error
    found = _md5(part)
    if found != md5:
        part.unlink()
        raise DataError(f"{url}: md5 {found}, expected {md5}; the file is deleted, the same command fetches it anew")
    part.replace(path)


def _receive(response: Any, part: Path, done: int) -> None:
    """Append to the `done` bytes of `part` what comes. Raises DataError where it is less than was announced."""
    length = response.headers["Content-Length"]
    total = done + int(length) if length else None
    printed = time.monotonic()
    with part.open("ab" if done else "wb") as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                printed = time.monotonic()
                of_all = f" of {total / MEGABYTE:.0f}" if total else ""
                print(f"{part.stem}: {done / MEGABYTE:.0f}{of_all} MB", flush=True)
    if total is not None and done < total:
        raise DataError(
            f"{response.url}: the connection ended after {done} of {total} bytes; what has come is kept,"
            " the same command continues"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Path, dest: Path, folder: str) -> None:
    """Unpack the `folder` that a tar or zip `archive` holds into `dest`.

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
