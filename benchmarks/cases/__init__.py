"""The registry: what is measured, on which sizes, against which opponents, and how much work it is at least."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import features, logits, loops, particles, steps
from benchmarks.suite.case import Entry


def registry(resnet56: Path | None = None) -> list[Entry]:
    """All entries, those of the public resnet56 only where the file of its weights is given."""
    from benchmarks.cases import training

    return [*ops_and_attacks(resnet56), *training.entries()]


def ops_and_attacks(resnet56: Path | None = None) -> list[Entry]:
    """The entries that need nothing of fastadv[train]."""
    ops = (steps.entries(), particles.entries(), logits.entries(), features.entries())
    return [entry for group in (*ops, loops.entries(resnet56)) for entry in group]


def selected(
    everything: bool = False, only: str = "", resnet56: Path | None = None, *, on_gpu: bool = False
) -> list[Entry]:
    """The entries of a run: the default ones, or everything; or those whose name contains ``only``."""
    return [
        entry
        for entry in registry(resnet56)
        if only in entry.name
        and (everything or only or entry.chosen or (on_gpu and entry.large) or "resnet56" in entry.name)
    ]
