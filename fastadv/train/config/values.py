"""Values of a configuration: from text, checked against a type, and back to TOML."""

import functools
import json
import operator
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from fastadv.train.runtime.errors import ConfigError

_LISTS = (tuple, Sequence)
_SCALARS = {bool: "true or false", int: "int", float: "a number or a fraction such as 8/255", str: "str", Path: "Path"}


def parse(hint: Any, text: str) -> Any:
    """What `text` on the command line means for a field of type `hint`; text that does not fit comes back as it is."""
    if is_union(hint):
        return None if text.lower() == "none" else parse(without_none(hint)[0], text)
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        return tuple(parse(element, part.strip()) for part in text.split(",") if part.strip())
    if hint is int:
        try:
            return int(text)
        except ValueError:
            return text
    return text


def parse_entries(entries: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Tables from texts NAME.KEY=VALUE; the value is written as in TOML, where its quotes may be left out.

    Raises ConfigError for a text of another form.
    """
    tables: dict[str, dict[str, Any]] = {}
    for entry in entries:
        found = re.fullmatch(r"([\w-]+)\.([\w-]+)=(.+)", entry)
        if found is None:
            raise ConfigError(f"option: {entry!r}, expected NAME.KEY=VALUE, such as tald.eps=8/255")
        name, key, text = found.groups()
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        tables.setdefault(name, {})[key] = value
    return tables


def check(name: str, hint: Any, value: Any) -> Any:
    """`value` as the type `hint`. TOML has no null and no fractions: "none" and "8/255" stand for them.

    Raises ConfigError naming the field, the value and what was expected.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if is_union(hint):
        return _check_union(name, hint, value)
    if origin is Literal:
        if value in arguments:
            return value
    elif origin in _LISTS:
        if isinstance(value, list | tuple) and (origin is Sequence or ... in arguments or len(value) == len(arguments)):
            return tuple(check(name, arguments[0], element) for element in value)
    elif is_table(hint):
        if isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values()):
            return value
    elif hint is float:
        number = _number(value)
        if number is not None:
            return number
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    got = repr(value) if origin is Literal else f"{value!r} ({type(value).__name__})"
    raise ConfigError(f"{name}: {got}, expected {_expected(hint)}")


def _check_union(name: str, hint: Any, value: Any) -> Any:
    """As the first alternative that takes it."""
    alternatives = without_none(hint)
    if len(alternatives) < len(typing.get_args(hint)) and (value is None or value == "none"):
        return None
    if len(alternatives) == 1:
        return check(name, alternatives[0], value)
    for alternative in alternatives:
        try:
            return check(name, alternative, value)
        except ConfigError:
            continue
    raise ConfigError(f"{name}: {value!r} ({type(value).__name__}), expected {_expected(hint)}")


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
    if typing.get_origin(hint) in _LISTS:
        return f"{describe_type(typing.get_args(hint)[0])},..."
    if is_union(hint):
        return "|".join(map(describe_type, without_none(hint)))
    return "NAME.KEY=VALUE" if is_table(hint) else hint.__name__.upper()


def expressible(hint: Any) -> Any:
    """`hint` without those alternatives that no TOML value stands for; None where nothing is left but None."""
    if is_union(hint):
        left = [part for part in typing.get_args(hint) if part is types.NoneType or expressible(part) is not None]
        return functools.reduce(operator.or_, left) if left not in ([], [types.NoneType]) else None
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in _LISTS:
        return hint if expressible(arguments[0]) is not None else None
    return hint if hint in _SCALARS or typing.get_origin(hint) is Literal else None


def is_table(hint: Any) -> bool:
    """Whether `hint` is a table of tables: dict[str, dict[str, Any]]."""
    return typing.get_origin(hint) is dict


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def without_none(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union but None."""
    return tuple(kind for kind in typing.get_args(hint) if kind is not types.NoneType)


def _expected(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, typing.get_args(hint)))}"
    if typing.get_origin(hint) in _LISTS:
        arguments = typing.get_args(hint)
        return "a list" if len(arguments) == 1 or ... in arguments else f"a list of {len(arguments)}"
    if is_union(hint):
        return " or ".join(map(_expected, without_none(hint)))
    return "tables" if is_table(hint) else _SCALARS[hint]


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
