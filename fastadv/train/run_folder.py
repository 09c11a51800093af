"""The folder of a run: made once, found again by --resume."""

import json
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from fastadv.train.checkpoint import write_atomically
from fastadv.train.config import Config, resolve
from fastadv.train.errors import ConfigError
from fastadv.train.machine import describe

RUNS = Path("runs")


def start_run(config: Config, run_dir: Path | None, *, command: str) -> Path:
    """Make the folder (runs/DATA-TIME where none is named) and write config.toml and origin.json into it.

    Raises ConfigError where the folder already holds a run.
    """
    folder = run_dir or RUNS / f"{config.data}-{time.strftime('%Y%m%d-%H%M%S')}"
    if (folder / "config.toml").exists():
        raise ConfigError(f"run_dir: {folder} already holds a run; add --resume to continue it, or name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    origin = describe(command=command, device=config.device, threads=config.threads or torch.get_num_threads())
    write_atomically(folder / "origin.json", lambda file: file.write(json.dumps(origin, indent=1).encode()))
    # Last, because it marks the folder as a run.
    write_atomically(folder / "config.toml", lambda file: file.write(config.to_toml().encode()))
    return folder


def find_run(run_dir: Path | None) -> Path | None:
    """The run to resume: `run_dir`, or the newest under runs/; None where there is none yet."""
    if run_dir is not None:
        return run_dir if (run_dir / "config.toml").exists() else None
    return max((path.parent for path in RUNS.glob("*/config.toml")), key=lambda run: run.stat().st_mtime, default=None)


def stored_config(folder: Path, *, recipe: str | None, flags: Mapping[str, Any]) -> Config:
    """The configuration of the run in `folder`. Raises ConfigError naming the flags that would change it."""
    stored = resolve(recipe=str(folder / "config.toml"))
    if recipe is not None:
        asked = resolve(recipe=recipe, flags=flags)
    else:
        asked = resolve(recipe=str(folder / "config.toml"), flags=flags)
    changed = [field.name for field in fields(Config) if getattr(asked, field.name) != getattr(stored, field.name)]
    if changed:
        changes = ", ".join(f"{name} {getattr(stored, name)!r} -> {getattr(asked, name)!r}" for name in changed)
        raise ConfigError(f"resume: the run in {folder} was started with other values ({changes})")
    return stored
