"""The folders of trainings, as archives that a call leaves and another one takes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastadv.train.config.train_config import Config

MIB = 2**20


def carried(run: Path, largest: int) -> tuple[list[Path], list[Path]]:
    """Return the files of a run that its archive holds, and those larger than ``largest`` bytes that it leaves behind.

    Of a finished student no checkpoint is needed any more, of another the newest.
    """
    held, behind = [], []
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        if path.name == ".lock" or path.suffix == ".tmp" or "tensorboard" in path.parts or not _needed(path):
            continue
        (held if path.stat().st_size <= largest else behind).append(path)
    return held, behind


def _needed(path: Path) -> bool:
    if path.parent.name != "checkpoints":
        return True
    finished = (path.parent.parent / "result.json").exists()
    return not finished and path == max(path.parent.glob("step-*.pt"), default=None)


def pack(run: Path, archive: Path, largest: int) -> None:
    """Write the archive of a run, whole or not at all."""
    written = archive.with_suffix(".unfinished")
    with tarfile.open(written, "w") as tar:
        for path in carried(run, largest)[0]:
            tar.add(path, path.relative_to(run.parent))
    os.replace(written, archive)


def unpack(archives: Path, runs: Path, names: Sequence[str]) -> list[str]:
    """Unpack the archives in a folder that are of ``names``; return what was done, a line each.

    A run that is there already stays as it is: it is at least as far. A student whose last attack is to come, and whose
    weights were too large for the archive, has no result afterwards, so that it is trained anew.
    """
    said = []
    for name in names:
        archive = archives / f"{name}.tar"
        if not archive.exists():
            said.append(f"{name}: {archives} has no {archive.name}")
        elif (runs / name).exists():
            said.append(f"{name}: goes on from {runs / name}, not from {archive}")
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(runs, filter="data")
            said.append(f"{name}: goes on from {archive}")
            said += [
                f"{name}: {student} is trained anew: its attack is to come, and its weights were left behind"
                for student in _forget_without_weights(runs / name)
            ]
    return said


def _forget_without_weights(run: Path) -> list[str]:
    """Remove the results of students that are to be attacked and have no weights here; return the students' names."""
    stranded = [
        result
        for result in sorted(run.glob("*-seed*/result.json"))
        if not (result.parent / "weights.pt").exists() and "attack" not in json.loads(result.read_text())
    ]
    if not stranded or Config.read_toml(run / Config.FILE).get("eval_attack", "pgd") == "pgd":
        return []
    for result in stranded:
        result.unlink()
        # What there is of the attack is of the weights that are not.
        shutil.rmtree(result.parent / "attack", ignore_errors=True)
    return [result.parent.name for result in stranded]


@contextlib.contextmanager
def keeping(runs: Path, out: Path, names: Sequence[str], largest: int, seconds: float = 15.0) -> Iterator[None]:
    """Bring the archive of each run in ``out`` up to date every so many seconds, and at the end."""
    ended = threading.Event()
    seen: dict[str, object] = {}

    def keep() -> None:
        for name in names:
            state = [(path, path.stat().st_mtime_ns) for path in carried(runs / name, largest)[0]]
            if state and state != seen.get(name):
                pack(runs / name, out / f"{name}.tar", largest)
                seen[name] = state

    def keep_on() -> None:
        while not ended.wait(seconds):
            # A training that goes on may take a file away at any moment: the next time is soon.
            with contextlib.suppress(OSError):
                keep()

    thread = threading.Thread(target=keep_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        keep()
