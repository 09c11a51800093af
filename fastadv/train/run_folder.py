"""The folder of a run: made once, found again by --resume."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastadv.train.checkpoint import write_atomically
from fastadv.train.config import Config, resolve
from fastadv.train.errors import ConfigError
from fastadv.train.machine import describe
from fastadv.train.robustness.config import AttackConfig

RUNS = Path("runs")


def start_run(
    config: Config | AttackConfig, run_dir: Path | None, *, command: str, facts: Mapping[str, str] | None = None
) -> Path:
    """Make the folder (runs/NAME-TIME where none is named) and write the configuration and origin.json into it.

    facts: what origin.json says beside machine, software and command.
    Raises ConfigError where the folder already holds a run.
    """
    folder = run_dir or RUNS / f"{config.run_name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (folder / config.FILE).exists():
        raise ConfigError(f"{folder} already holds a run; add --resume to continue it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    origin = describe(command=command, device=config.device, threads=config.threads or torch.get_num_threads())
    origin.update(facts or {})
    write_atomically(folder / "origin.json", lambda file: file.write(json.dumps(origin, indent=1).encode()))
    # Last, because it marks the folder as a run.
    write_atomically(folder / config.FILE, lambda file: file.write(config.to_toml().encode()))
    return folder


def add_fact(folder: Path, name: str, fact: str) -> None:
    """One more line of origin.json, in the place of an older one of that name."""
    path = folder / "origin.json"
    origin = {**json.loads(path.read_text()), name: fact}
    write_atomically(path, lambda file: file.write(json.dumps(origin, indent=1).encode()))


def find_run(run_dir: Path | None, kind: type[Config] | type[AttackConfig]) -> Path | None:
    """The run to resume: `run_dir`, or the newest of its kind under runs/; None where there is none yet."""
    if run_dir is not None:
        return run_dir if (run_dir / kind.FILE).exists() else None
    runs = (path.parent for path in RUNS.glob(f"*/{kind.FILE}"))
    return max(runs, key=lambda run: run.stat().st_mtime, default=None)


def stored_config(folder: Path, *, recipe: str | None, flags: Mapping[str, Any]) -> Config:
    """The configuration of the run in `folder`. Raises ConfigError naming the flags that would change it."""
    path = str(folder / Config.FILE)
    stored, asked = resolve(recipe=path), resolve(recipe=recipe or path, flags=flags)
    _refuse(folder, stored.changes(asked))
    return stored


def stored_attack(folder: Path, *, flags: Mapping[str, Any]) -> AttackConfig:
    """The same of an evaluation under attack."""
    stored = AttackConfig(**AttackConfig.read_toml(folder / AttackConfig.FILE))
    _refuse(folder, stored.changes(replace(stored, **AttackConfig.read(flags))))
    return stored


def check_facts(folder: Path, facts: Mapping[str, str]) -> None:
    """Raises ConfigError where facts that start_run was given are others by now."""
    stored = json.loads((folder / "origin.json").read_text())
    _refuse(folder, ", ".join(f"{name} {stored[name]} -> {now}" for name, now in facts.items() if stored[name] != now))


def _refuse(folder: Path, changes: str) -> None:
    if changes:
        raise ConfigError(f"resume: the run in {folder} was started with other values ({changes})")
