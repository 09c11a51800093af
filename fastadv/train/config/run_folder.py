"""The folder of a run: made once, found again by --resume."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.train_config import Config
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.files import locked, write_text
from fastadv.train.runtime.machine import describe
from fastadv.train.runtime.processes import Processes

RUNS = Path("runs")
# Files of which a run has one from its first saved step on.
SAVED = ("*/checkpoints/step-*.pt", "*/result.json", "result.json", "batches/*.json", "parts/*.begun", "parts/*.pt")
# Files of which a run, an evaluation and a student have one from their beginning on.
MARKS = (Config.FILE, AttackConfig.FILE, "result.json", "metrics.jsonl")


@contextlib.contextmanager
def open_run(
    config: Config | AttackConfig,
    processes: Processes,
    *,
    resumed: Path | None,
    named: Callable[[], Path],
    command: str,
    facts: Mapping[str, str],
    extend: Callable[[Path], object],
) -> Iterator[Path]:
    """Hold the folder of a run for ``processes``: ``resumed``, else the one that ``named`` gives the first of them.

    A new one, or one in which no step was saved, receives the configuration and origin.json, with the lines ``facts``
    beside machine, software and command. ``extend`` is called with a resumed one, by the first process alone; where
    machine, software or the number of processes are others, a line of origin.json says which.

    Raises ConfigError where another run holds the folder or it has a run that is not to be resumed, or files of one of
    another kind, and what ``extend`` raises.
    """

    def take() -> Path:
        folder = resumed or named()
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(folder))
        origin = describe(command=command, device=config.device, threads=config.threads)
        if processes.count > 1:
            origin["Processes"] = str(processes.count)
        if resumed is not None:
            extend(folder)
            _add_resume(folder, origin)
        elif (folder / config.FILE).exists() and any(any(folder.glob(pattern)) for pattern in SAVED):
            raise ConfigError(f"{folder} already holds a run; add --resume to continue it, or name another folder")
        elif others := [name for name in MARKS if name != config.FILE and (folder / name).exists()]:
            raise ConfigError(f"{config.FOLDER}: {folder} holds {others[0]} of another run, expected a new folder")
        else:
            write_text(folder / "origin.json", json.dumps({**origin, **facts}, indent=1))
            # Last, because it marks the folder as a run.
            write_text(folder / config.FILE, config.to_toml())
        return folder

    with contextlib.ExitStack() as held:
        yield processes.broadcast_from_rank0(take)


def _add_resume(folder: Path, now: Mapping[str, str]) -> None:
    """Add to origin.json where the run goes on, unless that is where it began, or where it went on before."""
    begun = {"Processes": "1", **read_origin(folder)}
    now = {"Processes": "1", **now}
    changes = [f"{name} {now[name]}" for name in now if name != "Command" and now[name] != begun.get(name)]
    earlier = begun.get("Resumed with", "").split("; ")
    if changes and (line := ", ".join(changes)) not in earlier:
        add_fact(folder, "Resumed with", "; ".join([*filter(None, earlier), line]))


def add_fact(folder: Path, name: str, fact: str) -> None:
    """Add a line to origin.json, in the place of an older one of that name."""
    write_text(folder / "origin.json", json.dumps({**read_origin(folder), name: fact}, indent=1))


def make_folder(name: str) -> Path:
    """Make the folder of what was given none: runs/NAME-TIME, and where that is taken runs/NAME-TIME-2 and so on."""
    first = RUNS / f"{name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = first, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = first.with_name(f"{first.name}-{number}")


def find_run(run_dir: Path | None, file: str) -> Path | None:
    """The run to resume: `run_dir`, or the newest under runs/ that has `file`; None where there is none yet."""
    if run_dir is not None:
        return run_dir if (run_dir / file).exists() else None
    runs = (path.parent for path in RUNS.glob(f"*/{file}"))
    return max(runs, key=lambda run: run.stat().st_mtime, default=None)


def read_origin(folder: Path) -> dict[str, str]:
    """Return the origin of the results in `folder`, by label."""
    return json.loads((folder / "origin.json").read_text())


def read_result(folder: Path) -> dict[str, Any]:
    """Return what a finished training or evaluation left in `folder`. Raises FileNotFoundError."""
    return json.loads((folder / "result.json").read_text())


def student_result(folder: Path, name: str, seed: int, *, epochs: int) -> dict[str, Any] | None:
    """Return the result of the student of one method or setting and seed, None before it has so many epochs."""
    try:
        result = read_result(student_folder(folder, name, seed))
    except FileNotFoundError:
        return None
    # Results of earlier versions have no "epochs": their number could not grow.
    return result if result.get("epochs", epochs) >= epochs else None


def check_facts(folder: Path, facts: Mapping[str, str]) -> None:
    """Raise ConfigError where facts that a run was started with are others by now, or were not given."""
    stored = {**dict.fromkeys(facts, "not known"), **read_origin(folder)}
    changes = [f"{name} {stored[name]} -> {now}" for name, now in facts.items() if stored[name] != now]
    if changes:
        raise refusal(folder, ", ".join(changes))


def refusal(folder: Path, changes: str) -> ConfigError:
    """Return the error where ``changes`` would make another run of the one in ``folder``."""
    return ConfigError(f"resume: the run in {folder} was started with other values ({changes})")


def student_folder(folder: Path, name: str, seed: int) -> Path:
    """Return the folder of the student of one method or setting and seed."""
    return folder / f"{name}-seed{seed}"
