"""The measurements of a run: means accumulated on the device, JSON lines, TensorBoard events."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.train.runtime.errors import CheckpointError

# The kind of the lines of a warm-up.
WARM_UP = "warm-up"


class MeanTerms:
    """The mean of each named scalar over the steps since the last reading, kept on the device until it is read."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._steps = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        values = torch.stack([term.detach().float() for term in terms.values()])
        self._names = list(terms)
        self._sums = values if self._sums is None else self._sums + values
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Return the means and start the next interval. Waits for the device."""
        means = {} if self._sums is None else dict(zip(self._names, (self._sums / self._steps).tolist(), strict=True))
        self._sums, self._steps = None, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"names": self._names, "sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._names, self._sums, self._steps = (state["names"], state["sums"], state["steps"])


class MetricsLog:
    """One JSON object a line in `folder`/metrics.jsonl, and the same numbers for TensorBoard.

    position, step, warm_up: where a checkpoint left the log, of the warm-up its own step; what was written after that
    checkpoint is dropped. warm_up None: there is no warm-up.
    """

    def __init__(
        self,
        folder: Path,
        *,
        position: int = 0,
        step: int = 0,
        warm_up: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "metrics.jsonl").open("ab")
        if self._file.tell() < position:
            raise CheckpointError(f"{self._file.name}: {self._file.tell()} bytes, the checkpoint expects {position}")
        self._file.truncate(position)
        self._file.seek(position)
        # By kind; "" of all others. The warm-up counts its steps anew, and a writer drops what is after one step.
        self._events: dict[str, Any] = {}
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # Lines of the step itself come before its checkpoint.
            first = 1 if position else 0
            self._events[""] = SummaryWriter(str(folder / "tensorboard"), purge_step=step + first)
            if warm_up is not None:
                place = folder / "tensorboard" / WARM_UP
                self._events[WARM_UP] = SummaryWriter(str(place), purge_step=warm_up + first)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append {"kind": kind, "step": step, **values}; what is infinite or NaN, which JSON lacks, becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"kind": kind, "step": step, **finite})
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error
        events = self._events.get(kind, self._events.get(""))
        if events is not None:
            for name, value in values.items():
                events.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Bring everything to the disk; return the position, which a checkpoint has to hold."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        for events in self._events.values():
            events.close()


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of `kind` that a MetricsLog wrote to `folder`."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]
