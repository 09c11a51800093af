"""The configuration that --resume goes on with: the stored one, and what may be added to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastadv.train.config.attack_config import AttackConfig
from fastadv.train.config.attacks import ENSEMBLE
from fastadv.train.config.auto_precision import CHOSEN, attack_modes, fast_attack_modes, filled
from fastadv.train.config.run_folder import add_fact, check_facts, read_origin, refusal
from fastadv.train.config.train_config import Config, in_new_words, overridden, read_recipe
from fastadv.train.data.datasets import TEST_IMAGES, TRAINING_IMAGES
from fastadv.train.runtime.digests import sha256_of_file
from fastadv.train.runtime.files import write_text

# No result depends on them.
FREE = ("data_dir", "device", "threads", "log_steps", "checkpoint_epochs", "checkpoint_steps", "tensorboard")
# Of these the content counts, which origin.json knows by its SHA-256.
CHECKPOINTS = ("teacher_checkpoint", "standard_teacher_checkpoint")


def continued_config(folder: Path, *, recipe: str | None, flags: Mapping[str, Any]) -> Config:
    """Return the configuration of the run in ``folder`` with what recipe and flags add to it, or may change.

    Methods, seeds and settings may be added; flags may say where data and checkpoints lie now, on which device, and how
    often to speak and save; and more epochs, where nothing follows their number.

    Raises ConfigError naming what would change the run: nothing that belongs to a result may.
    """
    given = Config.read_flags(flags)
    anew = {name: value for name, value in given.items() if name in (*FREE, *CHECKPOINTS)}
    stored = {**in_new_words(Config.read_toml(folder / Config.FILE)), **anew}
    begun = overridden(stored, {})
    asked = overridden(stored if recipe is None else read_recipe(recipe), given)
    if asked.precision == "auto":
        asked = filled(asked, {name: getattr(begun, name) for name in CHOSEN}, attack_modes(begun))
    used = set[str]().union(*(spec.names() for spec in (*begun.specs, begun.teacher_spec)))
    known = read_origin(folder)
    if "Precision" in known:
        # What auto decided at the beginning holds for methods that are added.
        added = {name: mode for name, mode in fast_attack_modes(asked, begun.precision).items() if name not in used}
        asked = filled(asked, {"precision": begun.precision}, added)
    # Where no rate and no loss depends on their number, the first epochs of a longer training are the same.
    steady = begun.schedule == "step" and not any(spec.claims("follows_progress") for spec in begun.specs)
    longer = steady and begun.max_steps is None and asked.epochs > begun.epochs

    def free(name: str) -> bool:
        field, *table = name.split(".")
        if field == "options":
            return table[0] not in used
        return field in ("methods", "seeds", *FREE, *CHECKPOINTS) or (field == "epochs" and longer)

    if changes := begun.changes(asked, free=free):
        raise refusal(folder, changes)
    needed = {line: "not given" for line in map(_sha256_line, CHECKPOINTS) if line in known}
    check_facts(folder, {**needed, **checkpoint_facts(begun)})
    return begun.replaced(
        methods=tuple(dict.fromkeys((*begun.methods, *asked.methods))),
        seeds=tuple(dict.fromkeys((*begun.seeds, *asked.seeds))),
        options={**begun.options, **asked.options},
        epochs=asked.epochs,
    )


def checkpoint_facts(config: Config) -> dict[str, str]:
    """Return the lines of origin.json that identify the checkpoints of a run."""
    given = {name: path for name in CHECKPOINTS if (path := getattr(config, name)) is not None}
    return {_sha256_line(name): sha256_of_file(path) for name, path in given.items()}


def _sha256_line(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()} SHA-256"


def extend_run(folder: Path, config: Config, images: Mapping[str, str], *, command: str) -> None:
    """Store what ``config`` adds to the run in ``folder``, if anything, with the command that did.

    Raises ConfigError where ``images``, the lines of origin.json on them, are others now.
    """
    check_facts(folder, known_facts(folder, images))
    if config.to_toml() == (folder / Config.FILE).read_text():
        return
    _add_extension(folder, command)
    begun = Config.read_toml(folder / Config.FILE)["epochs"]
    if config.epochs > begun:
        add_fact(folder, "Epochs", f"{begun} at first, then on to {config.epochs}")
    write_text(folder / Config.FILE, config.to_toml())


def _add_extension(folder: Path, command: str) -> None:
    earlier = read_origin(folder).get("Extended by")
    add_fact(folder, "Extended by", command if earlier is None else f"{earlier}; {command}")


def stored_attack(folder: Path, *, flags: Mapping[str, Any]) -> AttackConfig:
    """Return the configuration of the evaluation in ``folder``, with a larger n where flags give one,
    and for AutoAttack another place to save images.

    Raises ConfigError naming the flags that would change it.
    """
    given = AttackConfig.read_flags(flags)
    anew = {name: value for name, value in given.items() if name in ("data_dir", "checkpoint", "device", "threads")}
    stored = AttackConfig(**{**AttackConfig.read_toml(folder / AttackConfig.FILE), **anew})
    asked = stored.replaced(**given)
    more = stored.n is not None and (asked.n is None or asked.n >= stored.n)
    elsewhere = stored.attack == ENSEMBLE
    if changes := stored.changes(asked, free=lambda name: (name == "n" and more) or (name == "save" and elsewhere)):
        raise refusal(folder, changes)
    return asked


def extend_attack(folder: Path, config: AttackConfig, facts: Mapping[str, str], *, command: str) -> None:
    """Store what ``config`` adds to the evaluation in ``folder``, with the command that did.

    Raises ConfigError where ``facts`` are others now.
    """
    check_facts(folder, known_facts(folder, facts))
    if AttackConfig(**AttackConfig.read_toml(folder / config.FILE)).n != config.n:
        _add_extension(folder, command)
    write_text(folder / config.FILE, config.to_toml())


def known_facts(folder: Path, facts: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``facts`` that can be compared: older runs and evaluations did not keep which images they had."""
    known = read_origin(folder)
    return {name: fact for name, fact in facts.items() if name not in (TRAINING_IMAGES, TEST_IMAGES) or name in known}
