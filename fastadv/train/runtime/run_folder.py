"""The folder of a run: made once, found again by --resume."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastadv.train.config.run_config import Config, resolve
from fastadv.train.robustness.attack_config import AttackConfig
from fastadv.train.runtime.checkpoint import write_atomically
from fastadv.train.runtime.errors import ConfigError
from fastadv.train.runtime.machine import describe

RUNS = Path("runs")


def start_run(
    config: Config | AttackConfig, run_dir: Path | None, *, command: str, facts: Mapping[str, str] | None = None
) -> Path:
    """Make the folder (runs/NAME-TIME where none is named) and write the configuration and origin.json into it.

    facts: what origin.json says beside machine, software and command.
    Raises ConfigError where the folder already holds a run.
    """
    folder = run_dir or named_by_time(config.run_name)
    if (folder / config.FILE).exists():
        raise ConfigError(f"{folder} already holds a run; add --resume to continue it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    origin = describe(command=command, device=config.device, threads=config.threads or torch.get_num_threads())
    origin.update(facts or {})
    _write_origin(folder, origin)
    # Last, because it marks the folder as a run.
    write_atomically(folder / config.FILE, lambda file: file.write(config.to_toml().encode()))
    return folder


def add_fact(folder: Path, name: str, fact: str) -> None:
    """One more line of origin.json, in the place of an older one of that name."""
    _write_origin(folder, {**read_origin(folder), name: fact})


def named_by_time(name: str) -> Path:
    """Where something goes that was given no folder."""
    return RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def find_run(run_dir: Path | None, kind: type[Config] | type[AttackConfig]) -> Path | None:
    """The run to resume: `run_dir`, or the newest of its kind under runs/; None where there is none yet."""
    if run_dir is not None:
        return run_dir if (run_dir / kind.FILE).exists() else None
    runs = (path.parent for path in RUNS.glob(f"*/{kind.FILE}"))
    return max(runs, key=lambda run: run.stat().st_mtime, default=None)


def continued_config(folder: Path, *, recipe: str | None, flags: Mapping[str, Any]) -> Config:
    """The configuration of the run in `folder`, with the methods, seeds and settings that recipe and flags add to it.

    Raises ConfigError naming the flags that would change the run.
    """
    path = str(folder / Config.FILE)
    stored, asked = resolve(recipe=path), resolve(recipe=recipe or path, flags=flags)
    try:
        return stored.additions(asked)
    except ConfigError as error:
        raise _refusal(folder, str(error)) from None


def extend_run(folder: Path, config: Config, *, command: str) -> None:
    """Store what `config` adds to the run in `folder`, if anything, with the command that did."""
    if config == resolve(recipe=str(folder / Config.FILE)):
        return
    earlier = read_origin(folder).get("Extended by")
    add_fact(folder, "Extended by", command if earlier is None else f"{earlier}; {command}")
    write_atomically(folder / Config.FILE, lambda file: file.write(config.to_toml().encode()))


def stored_attack(folder: Path, *, flags: Mapping[str, Any]) -> AttackConfig:
    """The configuration of the evaluation in `folder`. Raises ConfigError naming the flags that would change it."""
    stored = AttackConfig(**AttackConfig.read_toml(folder / AttackConfig.FILE))
    if changes := stored.changes(replace(stored, **AttackConfig.read(flags))):
        raise _refusal(folder, changes)
    return stored


def read_origin(folder: Path) -> dict[str, str]:
    """Where the results in `folder` come from, by label."""
    return json.loads((folder / "origin.json").read_text())


def check_facts(folder: Path, facts: Mapping[str, str]) -> None:
    """Raises ConfigError where facts that start_run was given are others by now."""
    stored = read_origin(folder)
    changes = [f"{name} {stored[name]} -> {now}" for name, now in facts.items() if stored[name] != now]
    if changes:
        raise _refusal(folder, ", ".join(changes))


def _write_origin(folder: Path, origin: Mapping[str, str]) -> None:
    write_atomically(folder / "origin.json", lambda file: file.write(json.dumps(origin, indent=1).encode()))


def _refusal(folder: Path, changes: str) -> ConfigError:
    return ConfigError(f"resume: the run in {folder} was started with other values ({changes})")
