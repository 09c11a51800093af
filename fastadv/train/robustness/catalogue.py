"""The attacks of `fastadv attack`, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastadv import attacks
from fastadv.attacks import Attack
from fastadv.train.runtime.errors import ConfigError

if TYPE_CHECKING:
    from fastadv.train.robustness.attack_config import AttackConfig

# Those that take labels, eps, seed and sample_ids. One that returns several images for each is judged by its worst.
ATTACKS: dict[str, type[Attack]] = {
    name: kind
    for name, kind in attacks.ATTACKS.items()
    if {"y", "eps", "seed", "sample_ids"} <= inspect.signature(kind.function).parameters.keys()
}

# Fields of the configuration that not every attack takes; None leaves the attack's own default.
OPTIONAL = ("steps", "step_size", "norm", "loss", "restarts", "particles")

# Keywords that hold something for each image of a batch.
_PER_IMAGE = ("reference", "sample_ids")


def build_attack(config: AttackConfig) -> Attack:
    """The attack of ``config``. Raises ConfigError for a field it does not take or a value it refuses."""
    kind = ATTACKS[config.attack]
    known = kind.__signature__.parameters
    given = {name: value for name in OPTIONAL if (value := getattr(config, name)) is not None}
    for name, value in given.items():
        if name not in known:
            takes = ", ".join(option for option in OPTIONAL if option in known)
            raise ConfigError(f"{name}: {value!r}, but {config.attack} has no {name}; it takes {takes}")
    if given.get("restarts", 1) > 1:
        given["random_start"] = True  # without, fgsm and mi_fgsm would do the same so many times
    try:
        return kind(eps=config.eps, seed=config.seed, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{config.attack}: {error}") from None


def keywords(attack: Attack) -> Mapping[str, Any]:
    """Every keyword of ``attack`` that holds for all images, its defaults included."""
    defaults = {name: parameter.default for name, parameter in attack.__signature__.parameters.items()}
    return {name: attack.keywords.get(name, defaults[name]) for name in defaults if name not in _PER_IMAGE}
