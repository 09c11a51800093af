"""Typed values of a configuration: from text, checked, and back to TOML."""

import json
import math
import types
import typing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from fastadv.train.errors import ConfigError


@dataclass(frozen=True)
class About:
    """A field's help and its range: low <= value, above < value, value <= high."""

    help: str
    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf


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
        try:
            return float(Fraction(value)) if "/" in value else float(value)
        except (ValueError, ZeroDivisionError):
            return None
    return None
