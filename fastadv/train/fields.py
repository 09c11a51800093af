"""Typed values of a configuration: from text, checked, and back to TOML."""

import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self

from fastadv.train.errors import ConfigError


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
        types = cls.types()
        return {name: parse(types[name], value) if isinstance(value, str) else value for name, value in flags.items()}

    @classmethod
    def read_toml(cls, source: Traversable) -> dict[str, Any]:
        """The keys of a TOML file. Raises ConfigError naming the file or the key, FileNotFoundError."""
        try:
            keys = tomllib.loads(source.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: {error}") from None
        cls.check_known(keys)
        return keys

    def changes(self, other: Self) -> str:
        """What has another value in ``other``, in words; empty where nothing has."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {mine!r} -> {theirs!r}" for name, mine, theirs in pairs if mine != theirs)

    def to_toml(self) -> str:
        """The configuration as TOML that gives it back."""
        return "".join(f"{entry.name} = {to_toml(getattr(self, entry.name))}\n" for entry in fields(self))


def parse(hint: Any, text: str) -> Any:
    """What `text` on the command line means for a field of type `hint`; text that does not fit comes back as it is."""
    if _optional(hint):
        return None if text.lower() == "none" else parse(_without_none(hint), text)
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        return tuple(parse(element, part.strip()) for part in text.split(",") if part.strip())
    if hint is int:
        try:
            return int(text)
        except ValueError:
            return text
    return text


def check(name: str, hint: Any, value: Any) -> Any:
    """`value` as the type `hint`. TOML has no null and no fractions: "none" and "8/255" stand for them.

    Raises ConfigError naming the field, the value and what was expected.
    """
    origin = typing.get_origin(hint)
    if _optional(hint):
        return None if value is None or value == "none" else check(name, _without_none(hint), value)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        raise ConfigError(f"{name}: {value!r}, expected one of {', '.join(map(repr, choices))}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(check(name, typing.get_args(hint)[0], element) for element in value)
    elif hint is float:
        number = _number(value)
        if number is not None:
            return number
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = {float: "a number or a fraction such as 8/255", tuple: "a list"}.get(origin or hint, hint.__name__)
    raise ConfigError(f"{name}: {value!r} ({type(value).__name__}), expected {expected}")


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


def to_toml(value: Any) -> str:
    """`value` as TOML text that `check` reads back."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps("none" if value is None else str(value), ensure_ascii=False)


def describe_type(hint: Any) -> str:
    """What stands for a value in the help: the choices, or the type."""
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(typing.get_args(hint)) + "}"
    if typing.get_origin(hint) is tuple:
        return f"{describe_type(typing.get_args(hint)[0])},..."
    if _optional(hint):
        return describe_type(_without_none(hint))
    return hint.__name__.upper()


def _optional(hint: Any) -> bool:
    return typing.get_origin(hint) is types.UnionType


def _without_none(hint: Any) -> Any:
    return next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        try:
            return float(numerator) / float(denominator) if slash else float(numerator)
        except (ValueError, ZeroDivisionError):
            return None
    return None
