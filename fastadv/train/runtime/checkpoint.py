"""The newest checkpoints of a network, of which one that is damaged is passed over."""

import pickle
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastadv.train.runtime.errors import CheckpointError
from fastadv.train.runtime.files import write_atomically

KEPT = 2


class Checkpoints:
    """The newest KEPT checkpoints of one network, in `folder`. Two, so that a damaged one costs one interval."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def save(self, step: int, content: dict[str, Any]) -> Path:
        """Write `content` (tensors, numbers, texts, and dicts and lists of them) as the checkpoint of `step`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:09d}.pt"
        write_atomically(path, lambda file: torch.save(content, file))
        for old in self.paths()[KEPT:]:
            old.unlink()
        return path

    def load_newest(self, *, device: torch.device | str, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, its checksums verified, or None where none was written yet.

        Each damaged one is reported through `warn`. Raises CheckpointError when all are damaged.
        """
        paths = self.paths()
        for path in paths:
            try:
                # torch.load does not look at the archive's checksums.
                with zipfile.ZipFile(path) as archive:
                    damaged = archive.testzip()
                if damaged is None:
                    return torch.load(path, map_location=device, weights_only=True)
                reason = f"checksum of {damaged}"
            except Exception as error:  # zipfile, pickle and torch raise many kinds for a damaged file
                reason = why_refused(error)
            warn(f"{path}: damaged checkpoint ({reason}); trying the one before")
        if paths:
            raise CheckpointError(f"{self.folder}: every checkpoint is damaged; delete the folder to train anew")
        return None


def why_refused(error: Exception) -> str:
    """Say in a line why a file was not loaded. Torch's own words for a pickle advise to run what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        return "damaged, or with code in it, which is not run"
    first, *others = str(error).strip().splitlines() or [""]
    # Torch's heading ends in a colon; below it is what does not fit, of which the beginning says enough.
    if first.endswith(":") and others:
        first = textwrap.shorten(f"{first} {others[0]}", 240, placeholder=" ...")
    return f"{type(error).__name__}: {first}"
