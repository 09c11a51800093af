"""The base of a configuration: typed fields with help and range, read from flags and TOML and written back."""

import math
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

from fastadv.train.config.values import check, is_table, parse, parse_entries, to_toml
from fastadv.train.runtime.errors import ConfigError


@dataclass(frozen=True)
class About:
    """A field's help and its range: low <= value, above < value, value <= high."""

    help: str
    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Fields:
    """Base of a configuration: frozen dataclasses whose fields are Annotated with About. Checks each when made.

    Raises ConfigError naming the field, its value and what was expected.
    """

    def __post_init__(self) -> None:
        about = self.about()
        for name, hint in self.types().items():
            value = check(name, hint, getattr(self, name))
            check_range(name, about[name], value)
            object.__setattr__(self, name, value)

    @classmethod
    @cache
    def types(cls) -> dict[str, Any]:
        """The type of each field, by name."""
        return typing.get_type_hints(cls)

    @classmethod
    @cache
    def about(cls) -> dict[str, About]:
        """What each field says of itself, by name."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {name: hint.__metadata__[0] for name, hint in hints.items()}

    @classmethod
    def check_known(cls, names: Iterable[str]) -> None:
        """Raises ConfigError for the first name that is no field."""
        for name in names:
            if name not in cls.types():
                raise ConfigError(f"{name}: no such field; the fields are {', '.join(sorted(cls.types()))}")

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """``flags``, where a value is a text as typed on the command line, as values. Raises ConfigError."""
        cls.check_known(flags)
        return {name: _typed(cls.types()[name], value) for name, value in flags.items()}

    @classmethod
    def read_toml(cls, source: Traversable) -> dict[str, Any]:
        """The keys of a TOML file. Raises ConfigError naming the file or the key, FileNotFoundError."""
        try:
            keys = tomllib.loads(source.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: {error}") from None
        cls.check_known(keys)
        return keys

    def changes(self, other: Self, *, free: Callable[[str], bool] = lambda name: False) -> str:
        """What has another value in ``other``, in words; empty where nothing has. Names that are ``free`` may.

        A value of a table has the name field.table.key.
        """
        mine, theirs = self._leaves(), other._leaves()
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name) and not free(name)]
        return ", ".join(f"{name} {mine.get(name, 'not given')} -> {theirs.get(name, 'not given')}" for name in names)

    def _leaves(self) -> dict[str, str]:
        """Every value as a text; that of a table under the name of the table and its own."""
        leaves = {}
        for name, hint in self.types().items():
            value = getattr(self, name)
            tables = (
                {f"{name}.{entry}.": table for entry, table in value.items()} if is_table(hint) else {"": {name: value}}
            )
            for prefix, table in tables.items():
                leaves.update({prefix + key: _text(leaf) for key, leaf in table.items()})
        return leaves

    def to_toml(self) -> str:
        """The configuration as TOML that gives it back: keys, then tables."""
        keys, tables = "", ""
        for name, hint in self.types().items():
            value = getattr(self, name)
            if is_table(hint):
                tables += "".join(f"\n[{name}.{entry}]\n{_lines(table)}" for entry, table in value.items())
            else:
                keys += _lines({name: value})
        return keys + tables


def _text(value: Any) -> str:
    return repr(str(value) if isinstance(value, Path) else value)


def check_range(name: str, limits: About, value: Any) -> None:
    """Raises ConfigError where a number, or one of several, is not finite or out of range."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            raise ConfigError(f"{name}: {number}, expected a finite number")
        if number < limits.low:
            raise ConfigError(f"{name}: {number}, expected at least {limits.low}")
        if number <= limits.above:
            raise ConfigError(f"{name}: {number}, expected more than {limits.above}")
        if number > limits.high:
            raise ConfigError(f"{name}: {number}, expected at most {limits.high}")


def _typed(hint: Any, flag: Any) -> Any:
    """The value of a flag: a text as typed, the texts of a flag that may be repeated, or a value already."""
    if is_table(hint):
        return parse_entries(flag)
    return parse(hint, flag) if isinstance(flag, str) else flag


def _lines(values: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {to_toml(value)}\n" for name, value in values.items())
