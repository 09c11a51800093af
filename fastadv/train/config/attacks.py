"""The attacks of `fastadv attack`, by name."""

import ast
from importlib.resources import files

from fastadv.train.runtime.errors import unknown_name

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


def check_attack(field: str, name: str) -> None:
    """Raise ConfigError naming the field where ``name`` is neither an attack nor the ensemble."""
    known = (*ATTACKS, ENSEMBLE)
    if name not in known:
        raise unknown_name(field, name, known)
