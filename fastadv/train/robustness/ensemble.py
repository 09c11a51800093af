"""AutoAttack on a test split: shared among processes, stored as it goes, and extended to more images."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastadv.attacks import AutoAttack, AutoAttackResult
from fastadv.attacks.methods.autoattack import summary
from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.robustness.attack_split import PreparedAttack
from fastadv.train.runtime.errors import CheckpointError, ConfigError
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.processes import Processes
from fastadv.train.runtime.stopping import asked_to_stop, deferred, stop_if_asked

SECONDS_BETWEEN_STORES = 30.0
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Evaluated:
    """Images of the test split, by their place in it, and what AutoAttack made of them.

    places: int64 [n]. images: the adversarial ones, the clean ones where there is none [n, ...]. broken_by: see
    :class:`fastadv.attacks.AutoAttackResult`. attacks: those that ran, in order, with their seconds and zero_gradients.
    zero_gradients, model_warnings: see :class:`fastadv.attacks.AutoAttack`.
    """

    places: Tensor
    images: Tensor
    broken_by: Tensor
    attacks: tuple[str, ...]
    seconds: tuple[float, ...]
    zero_gradients: tuple[int, ...]
    model_warnings: tuple[str, ...]

    def result(self) -> AutoAttackResult:
        """Return the verdict on these images."""
        return summary(self.broken_by, self.attacks, self.seconds, self.zero_gradients, self.model_warnings)


def run_autoattack(config: AttackConfig, prepared: PreparedAttack, folder: Path, processes: Processes) -> Evaluated:
    """Attack every image that `folder` has no verdict on; return all verdicts, in the order of the split.

    Each process takes its share; a search that was cut off is gone on with where it was stored.
    """
    # Of each part PART.begun while it runs, PART.pt when it is over.
    folder = folder / "parts"
    folder.mkdir(exist_ok=True)
    begun = sorted(folder.glob("*.begun"))[processes.rank :: processes.count]
    if any(folder.iterdir()):
        there = int(_done(folder, prepared.images).sum())
        print(f"continuing: {there} of {prepared.images} images are there", flush=True)
    # Nobody ends a part before all have seen the same ones.
    _barrier(processes)
    for file in begun:
        _run(config, prepared, file, _read(file), processes)
    _barrier(processes)
    mine = (~_done(folder, prepared.images)).nonzero().flatten()[processes.rank :: processes.count]
    # Nobody looks for parts any more before all have finished theirs.
    _barrier(processes)
    if len(mine):
        file = folder / f"part-{int(mine[0]):07d}-{processes.rank:04d}.begun"
        _run(config, prepared, file, {"places": mine}, processes)
    _barrier(processes)
    return _joined(_finished(folder), prepared.images)


def _done(folder: Path, images: int) -> Tensor:
    """Return which of the first ``images`` have a verdict [images]."""
    done = torch.zeros(images, dtype=torch.bool)
    for part in _finished(folder):
        done[part.places[part.places < images]] = True
    return done


def _run(
    config: AttackConfig, prepared: PreparedAttack, file: Path, begun: dict[str, Any], processes: Processes
) -> None:
    """Run one part to its end, storing it now and then, and where a signal asks to stop."""
    places: Tensor = begun["places"]
    x, y = prepared.batch(places)
    # No line at once: the first passes are the slowest, and say little of the time that is left.
    printed = written = time.monotonic()
    over = 0

    def watch(evaluation: AutoAttack) -> None:
        nonlocal printed, written, over
        now = time.monotonic()
        for stage in range(over, evaluation.stage):
            print(_outcome(evaluation, stage), flush=True)
        over = evaluation.stage
        if asked_to_stop() or now - written > SECONDS_BETWEEN_STORES:
            _write(file, {"places": places, "state": evaluation.state_dict()})
            written = time.monotonic()
        stop_if_asked()
        if now - printed > SECONDS_BETWEEN_LINES:
            printed = now
            print(_progress(evaluation), flush=True)

    try:
        evaluation = AutoAttack(
            prepared.network,
            x,
            y,
            **config.keywords,
            attack_dtype=config.dtype,
            batch_size=config.batch_size,
            sample_ids=places.to(x.device),
        )
        if "state" in begun:
            evaluation.load_state_dict(begun["state"])
        over = evaluation.stage
        # Of several processes each would stop after a pass of its own.
        with deferred() if processes.count == 1 else contextlib.nullcontext():
            evaluation.run(watch)
    except ValueError as error:
        raise ConfigError(f"autoattack: {error}") from error
    part = Evaluated(
        places,
        evaluation.images.cpu(),
        evaluation.broken_by.cpu(),
        evaluation.attacks,
        tuple(stage.seconds for stage in evaluation.result().stages),
        tuple(evaluation.zero_gradients),
        tuple(evaluation.model_warnings),
    )
    _write(file.with_suffix(".pt"), vars(part))
    file.unlink(missing_ok=True)


def _outcome(evaluation: AutoAttack, stage: int) -> str:
    """What an attack that is over leaves, in a line."""
    found = evaluation.result().stages[stage]
    line = (
        f"{found.attack} is over: {found.broken} of {found.attacked} images broken, robust accuracy at most"
        f" {100 * found.robust_accuracy:.2f} %"
    )
    # Square sees no gradient, and is the longest.
    return f"{line} after all white-box attacks" if evaluation.attacks[stage + 1 :] == ("square",) else line


def _progress(evaluation: AutoAttack) -> str:
    result = evaluation.result()
    stage = min(evaluation.stage, len(evaluation.attacks) - 1)
    return (
        f"{evaluation.attacks[stage]} ({stage + 1} of {len(evaluation.attacks)}): robust accuracy at most"
        f" {100 * result.robust_accuracy:.2f} % of {len(evaluation.broken_by)} images, at most"
        f" {evaluation.seconds_left():,.0f} s left"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file raises anything
        raise CheckpointError(f"{file}: damaged ({error}); delete it and add --resume") from None


def _write(file: Path, content: dict[str, Any]) -> None:
    write_atomically(file, lambda out: torch.save(content, out))


def _finished(folder: Path) -> list[Evaluated]:
    return [Evaluated(**_read(file)) for file in sorted(folder.glob("*.pt"))]


def _joined(parts: Sequence[Evaluated], images: int) -> Evaluated:
    """Return the verdicts on the first ``images`` of the split, in their order; seconds and the like of all parts."""
    places = torch.cat([part.places for part in parts])
    order = places.argsort()
    order = order[places[order] < images]
    seconds = tuple(map(sum, zip(*(part.seconds for part in parts), strict=True)))
    zero_gradients = tuple(map(sum, zip(*(part.zero_gradients for part in parts), strict=True)))
    warnings = tuple(dict.fromkeys(warning for part in parts for warning in part.model_warnings))
    found, broken_by = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("images", "broken_by"))
    return Evaluated(places[order], found, broken_by, parts[0].attacks, seconds, zero_gradients, warnings)


def _barrier(processes: Processes) -> None:
    """Wait for all processes."""
    if processes.count > 1:
        torch.distributed.barrier()
