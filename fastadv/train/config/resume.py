"""The configuration that --resume goes on with: the stored one, and what may be added to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.train_config import Config, resolve
from fastadv.train.runtime.files import write_atomically
from fastadv.train.runtime.run_folder import add_fact, read_origin, refusal


def continued_config(folder: Path, *, recipe: str | None, flags: Mapping[str, Any]) -> Config:
    """Return the configuration of the run in ``folder`` with the methods, seeds and settings that recipe and flags add.

    Raises ConfigError naming the flags that would change the run: nothing that belongs to a result may.
    """
    path = str(folder / Config.FILE)
    stored, asked = resolve(recipe=path), resolve(recipe=recipe or path, flags=flags)
    used = {
        name
        for spec in (*stored.specs, stored.spec(stored.teacher_method, where="teacher_method"))
        for name in spec.names()
    }

    def free(name: str) -> bool:
        field, *table = name.split(".")
        return field in ("methods", "seeds") or (field == "options" and table[0] not in used)

    if changes := stored.changes(asked, free=free):
        raise refusal(folder, changes)
    return stored.replaced(
        methods=tuple(dict.fromkeys((*stored.methods, *asked.methods))),
        seeds=tuple(dict.fromkeys((*stored.seeds, *asked.seeds))),
        options={**stored.options, **asked.options},
    )


def extend_run(folder: Path, config: Config, *, command: str) -> None:
    """Store what ``config`` adds to the run in ``folder``, if anything, with the command that did."""
    if config == resolve(recipe=str(folder / Config.FILE)):
        return
    earlier = read_origin(folder).get("Extended by")
    add_fact(folder, "Extended by", command if earlier is None else f"{earlier}; {command}")
    write_atomically(folder / Config.FILE, lambda file: file.write(config.to_toml().encode()))


def stored_attack(folder: Path, *, flags: Mapping[str, Any]) -> AttackConfig:
    """Return the configuration of the evaluation in ``folder``. Raises ConfigError for flags that would change it.

    An evaluation by AutoAttack may go on to more images, and save them elsewhere.
    """
    stored = AttackConfig(**AttackConfig.read_toml(folder / AttackConfig.FILE))
    asked = stored.replaced(**AttackConfig.read_flags(flags))
    free = {name: getattr(asked, name) for name in ("n", "save")} if stored.attack == ENSEMBLE else {}
    if changes := stored.replaced(**free).changes(asked):
        raise refusal(folder, changes)
    if asked != stored:
        write_atomically(folder / AttackConfig.FILE, lambda file: file.write(asked.to_toml().encode()))
    return asked
