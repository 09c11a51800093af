"""The base of a configuration: a pydantic model that is read from flags and TOML and written back."""

import contextlib
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from fastadv.train.runtime.errors import ConfigError, did_you_mean

_SEQUENCES = (tuple, Sequence)
_SCALARS = (bool, int, float, str, Path)
# By pydantic's type of error.
_EXPECTED_KIND = {
    "bool_type": "true or false",
    "int_type": "int",
    "float_type": "a number or a fraction such as 8/255",
    "string_type": "str",
    "is_instance_of": "{class}",
    "tuple_type": "a list",
    "dict_type": "tables",
    "too_long": "a list of {max_length}",
    "missing": "a longer list",
}
_EXPECTED_VALUE = {
    "literal_error": "one of {expected}",
    "finite_number": "a finite number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}


class ConfigModel(BaseModel):
    """Base of a configuration, whose fields are keys of a TOML file and flags of a command.

    FILE: that file, which marks a folder as the command's. FOLDER: the flag for that folder.
    Raises ConfigError naming the field, its value and what was expected.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    FILE: ClassVar[str]
    FOLDER: ClassVar[str]

    def __init__(self, **values: Any) -> None:
        self.check_known(values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explain(error) from None

    @field_validator("*", mode="before")
    @classmethod
    def _from_toml(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        return from_toml(cls.model_fields[info.field_name].annotation, value)

    @classmethod
    def check_known(cls, names: Iterable[str]) -> None:
        """Raise ConfigError for the first name that is no field."""
        fields = sorted(cls.model_fields)
        for name in names:
            if name not in fields:
                raise ConfigError(
                    f"{name}: no such field{did_you_mean(name, fields)}; the fields are {', '.join(fields)}"
                )

    @classmethod
    def read_flags(cls, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``flags``, where a value is a text as typed on the command line, as values. Raises ConfigError."""
        cls.check_known(flags)
        values = dict(flags)
        for name, given in flags.items():
            hint = cls.model_fields[name].annotation
            if is_table(hint):
                values[name] = parse_entries(given)
            elif isinstance(given, str):
                values[name] = from_text(hint, given)
        return values

    @classmethod
    def read_toml(cls, source: Traversable) -> dict[str, Any]:
        """Return the keys of a TOML file. Raises ConfigError naming the file or the key, FileNotFoundError."""
        try:
            keys = tomllib.loads(source.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{source}: {error}") from None
        cls.check_known(keys)
        return keys

    def to_toml(self) -> str:
        """Return the configuration as TOML that gives it back: keys, then tables."""
        import tomlkit

        return tomlkit.dumps(_plain(dict(self)))

    def replaced(self, **values: Any) -> Self:
        """Return the configuration with other values, checked as any. Raises ConfigError."""
        return type(self)(**{**dict(self), **values})

    def changes(self, other: Self, *, free: Callable[[str], bool] = lambda name: False) -> str:
        """Name, in words, what has another value in ``other``; empty where nothing has. Names that are ``free`` may.

        A value of a table has the name field.table.key.
        """
        mine, theirs = _reprs(self), _reprs(other)
        pairs = {name: [side.get(name, "not given") for side in (mine, theirs)] for name in {**mine, **theirs}}
        changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and not free(name)}
        return ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())


def flag(default: Any, description: str, **limits: Any) -> Any:
    """Return a field with this default, help and limits of its value (ge, gt, le, lt, as pydantic has them)."""
    return Field(default, description=description, **limits)


def checked(name: str, hint: Any, value: Any) -> Any:
    """Return ``value`` of a recipe as the type ``hint``. Raises ConfigError naming ``name`` and what was expected."""
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(from_toml(hint, value))
    except ValidationError as error:
        raise explain(error, name) from None


def explain(error: ValidationError, name: str | None = None) -> ConfigError:
    """Return the first fault that pydantic found, in a line. name: what was validated, where it is no model."""
    faults = error.errors(include_url=False)
    first = faults[0]
    if isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):
        return cause
    if name is None:
        name = str(first["loc"][0])
        faults = [fault for fault in faults if fault["loc"][0] == name]
    kinds = {**_EXPECTED_KIND, **_EXPECTED_VALUE}
    texts = (kinds.get(fault["type"], fault["msg"]).format(**fault.get("ctx", {})) for fault in faults)
    expected = dict.fromkeys(text.replace("' or '", "', '").replace("Sequence", "a list") for text in texts)
    got = repr(first["input"])
    if first["type"] in _EXPECTED_KIND:
        got += f" ({type(first['input']).__name__})"
    return ConfigError(f"{name}: {got}, expected {' or '.join(expected)}")


def from_toml(hint: Any, value: Any) -> Any:
    """Return ``value`` for a field of type ``hint``: TOML has no null and no fractions, but "none" and "8/255"."""
    kinds = _alternatives(hint)
    if value == "none" and types.NoneType in kinds:
        return None
    if isinstance(value, str):
        number = _number(value) if float in kinds else None
        return number if number is not None else Path(value) if Path in kinds else value
    if isinstance(value, list | tuple):
        for kind in kinds:
            if typing.get_origin(kind) in _SEQUENCES:
                return tuple(from_toml(typing.get_args(kind)[0], element) for element in value)
    return value


def from_text(hint: Any, text: str) -> Any:
    """Read ``text`` of the command line for a field of type ``hint``; what does not fit comes back as it is."""
    kinds = _alternatives(hint)
    if text.lower() == "none" and types.NoneType in kinds:
        return None
    if typing.get_origin(kinds[0]) is tuple:
        parts = (part.strip() for part in text.split(","))
        return tuple(from_text(typing.get_args(kinds[0])[0], part) for part in parts if part)
    with contextlib.suppress(ValueError):
        return int(text) if int in kinds else text
    return text


def parse_entries(entries: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read tables from texts NAME.KEY=VALUE; the value is written as in TOML, where its quotes may be left out.

    Raises ConfigError for a text of another form.
    """
    tables: dict[str, dict[str, Any]] = {}
    for entry in entries:
        parts = re.fullmatch(r"([\w-]+)\.([\w-]+)=(.+)", entry, re.DOTALL)
        if parts is None:
            raise ConfigError(f"option: {entry!r}, expected NAME.KEY=VALUE, such as tald.eps=8/255")
        name, key, text = parts.groups()
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        tables.setdefault(name, {})[key] = value
    return tables


def describe(hint: Any) -> str:
    """Return what the help shows for a value of type ``hint``: the choices, or the type."""
    if typing.get_origin(hint) is Literal:
        return "{" + ",".join(typing.get_args(hint)) + "}"
    if typing.get_origin(hint) in _SEQUENCES:
        return f"{describe(_alternatives(typing.get_args(hint)[0])[0])},..."
    kinds = [kind for kind in _alternatives(hint) if kind is not types.NoneType]
    if len(kinds) > 1 or kinds[0] is not hint:
        return "|".join(map(describe, kinds))
    return "NAME.KEY=VALUE" if is_table(hint) else hint.__name__.upper()


def expressible(hint: Any) -> Any:
    """Return ``hint`` without those alternatives that no TOML value stands for; None where nothing is left but None."""
    kept = [kind for kind in _alternatives(hint) if kind is types.NoneType or _in_toml(kind)]
    return typing.Union[tuple(kept)] if kept not in ([], [types.NoneType]) else None  # noqa: UP007


def is_table(hint: Any) -> bool:
    """Return whether ``hint`` is a table of tables: dict[str, dict[str, Any]]."""
    return typing.get_origin(hint) is dict


def shown(value: Any) -> str:
    """Return a value for a reader, as it may be typed."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a table and of those in it, by their names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union; of another type, that alone. Without the ranges of fields."""
    if typing.get_origin(hint) is Annotated:
        return _alternatives(typing.get_args(hint)[0])
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _in_toml(kind: Any) -> bool:
    if typing.get_origin(kind) in _SEQUENCES:
        return expressible(typing.get_args(kind)[0]) is not None
    return kind in _SCALARS or typing.get_origin(kind) is Literal


def _number(text: str) -> float | None:
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        return None


def _plain(value: Any) -> Any:
    """``value`` in what TOML has."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return "none" if value is None else str(value) if isinstance(value, Path) else value


def _reprs(model: ConfigModel) -> dict[str, str]:
    leaves = flattened(dict(model))
    return {name: repr(str(value) if isinstance(value, Path) else value) for name, value in leaves.items()}
