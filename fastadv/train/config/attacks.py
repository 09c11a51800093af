"""The attacks of `fastadv attack`, by name."""

import ast
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastadv.train.runtime.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from fastadv.attacks import Attack

# The ensemble, which is no single attack and reports of its own.
ENSEMBLE = "autoattack"
ENSEMBLE_VERSIONS = ("standard", "plus", "rand")
# Attacks without a radius and attacks without labels, of which no robust accuracy comes.
_OTHERS = ("bss", "vat")


def _imported() -> list[str]:
    """Return the attacks that fastadv/attacks/__init__.py imports from files of their names, read as text: no torch."""
    source = files("fastadv").joinpath("attacks/__init__.py").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom)]
    pairs = [(node.module, each.name) for node in imports for each in node.names]
    return [name for module, name in pairs if module == f"fastadv.attacks.methods.{name}"]


# Those of fastadv.attacks.ATTACKS that take labels, eps, seed and sample_ids. One that returns several images for each
# is judged by its worst.
ATTACKS = tuple(name for name in _imported() if name not in (ENSEMBLE, *_OTHERS))

# Fields of the configuration that not every attack takes; None leaves the attack's own default.
OPTIONAL = ("steps", "step_size", "norm", "loss", "restarts", "particles", "queries", "targets")

# Keywords that hold something for each image of a batch.
_PER_IMAGE = ("reference", "sample_ids", "mask")


def check_attack(field: str, name: str) -> None:
    """Raise ConfigError naming the field where ``name`` is neither an attack nor the ensemble."""
    known = (*ATTACKS, ENSEMBLE)
    if name not in known:
        raise unknown_name(field, name, known)


def build_attack(name: str, *, eps: float, seed: int, **optional: Any) -> "Attack":
    """Build the attack ``name``; an option that is None is the attack's own.

    Raises ConfigError for an option it does not take or a value it refuses.
    """
    from fastadv import attacks

    kind = attacks.ATTACKS[name]
    known = kind.__signature__.parameters
    given = {option: value for option, value in optional.items() if value is not None}
    for option, value in given.items():
        if option not in known:
            takes = ", ".join(each for each in OPTIONAL if each in known)
            raise ConfigError(f"{option}: {value!r}, but {name} has no {option}; it takes {takes}")
    if given.get("restarts", 1) > 1 and "random_start" in known:
        given["random_start"] = True  # without, fgsm and mi_fgsm would do the same so many times
    if name == "apgd" and "targets" in given:
        given = {"variant": "autoattack", "loss": "dlr", **given}  # the only form that aims at classes in turn
    try:
        return kind(eps=eps, seed=seed, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from None


def keywords(attack: "Attack") -> Mapping[str, Any]:
    """Return every keyword of ``attack`` that holds for all images, its defaults included."""
    defaults = {name: parameter.default for name, parameter in attack.__signature__.parameters.items()}
    return {name: attack.keywords.get(name, defaults[name]) for name in defaults if name not in _PER_IMAGE}
