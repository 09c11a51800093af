"""Progress of a long loop: a live bar on a terminal, a plain line now and then elsewhere or without tqdm."""

import shutil
import sys
import time
from contextlib import AbstractContextManager, suppress
from typing import Any

from fastadv.train.runtime.errors import MissingExtraError
from fastadv.train.runtime.imports import require

SECONDS_BETWEEN_LINES = 5.0


class Progress(AbstractContextManager["Progress"]):
    """Steps done, images/s after the first of them, time left and the newest note, such as the loss; a context manager.

    shown: False for all but one of the processes that share a loop.
    """

    def __init__(self, label: str, *, done: int, total: int, images_per_step: int, shown: bool = True) -> None:
        self._label = label
        self._done, self._total = done, total
        self._images_per_step = images_per_step
        self._note = ""
        self._first = done + 1
        self._first_over = self._printed = time.monotonic()
        self._shown = shown
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            # tqdm shows nothing on a terminal that gives its size as 0 by 0; this falls back to 80 by 24.
            size = shutil.get_terminal_size()
            with suppress(MissingExtraError):
                self._bar = require("tqdm", "the progress bar").tqdm(
                    desc=label,
                    total=total * images_per_step,
                    initial=done * images_per_step,
                    unit=" images",
                    unit_scale=True,
                    ncols=size.columns,
                    nrows=size.lines,
                    leave=False,
                )

    def step(self) -> None:
        """Count one more step."""
        self._done += 1
        if self._done == self._first:
            self._first_over = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._images_per_step)
        elif self._shown and time.monotonic() - self._printed > SECONDS_BETWEEN_LINES:
            self._print()

    def note(self, text: str) -> None:
        """Show this beside the rate from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def _print(self) -> None:
        self._printed = time.monotonic()
        told = [f"{self._label}: step {self._done}/{self._total}"]
        # The first step compiles networks and warms up: it tells nothing of those to come.
        if self._done > self._first:
            seconds = (self._printed - self._first_over) / (self._done - self._first)
            told.append(f"{self._images_per_step / seconds:,.0f} images/s")
            told.append(f"{(self._total - self._done) * seconds:.0f} s left")
        print(", ".join([*told, self._note] if self._note else told), flush=True)

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()
