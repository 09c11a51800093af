"""Settings: methods with values for their options, under the names that a run gives them."""

import inspect
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastadv.distill import Method
from fastadv.distill.method import Network
from fastadv.train.config.methods import METHODS, Known
from fastadv.train.config.options import REQUIRED, find_option, options_of
from fastadv.train.runtime.errors import ConfigError

# Of a recipe. A table is called as a method and holds options of it; or it has another name, says which "method" it is
# another setting of, and holds what differs from the table of that method.
Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A method of METHODS with the options that were given; an option that is a method is a setting too."""

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **networks: Network | None) -> Method:
        """The method. Raises ConfigError naming it for values that its constructor refuses.

        networks: arguments that no recipe can hold, for the constructors that have one of that name.
        """
        kind = METHODS[self.method].kind
        arguments = {
            name: value.build(**networks) if isinstance(value, Setting) else value
            for name, value in self.options.items()
        }
        taken = {name: networks[name] for name in inspect.signature(kind).parameters if name in networks}
        try:
            return kind(**arguments, **taken)
        except (TypeError, ValueError) as error:
            method = "" if self.name == self.method else f" ({self.method})"
            raise ConfigError(f"options.{self.name}{method}: {error}") from None

    def takes(self, network: str) -> bool:
        """Whether the constructor, or that of a method it is built on, has an argument ``network`` for ``build``."""
        kinds = (type(part) for part in self.build().parts())
        return any(network in inspect.signature(kind).parameters for kind in kinds)

    @property
    def attacks(self) -> bool:
        """Whether the method, or one that it is built on, makes adversarial images."""
        return any(part.ascent is not None for part in self.build().parts())

    def names(self) -> set[str]:
        """The names whose tables the setting depends on: its own, its method's, and those of what it is built on."""
        parts = (value for value in self.options.values() if isinstance(value, Setting))
        return {self.name, self.method}.union(*(part.names() for part in parts))

    def value(self, option: str) -> Any:
        """What ``option`` is here, given or not."""
        return self.options.get(option, options_of(METHODS[self.method].kind)[option].default)


def check_tables(tables: Tables) -> dict[str, dict[str, Any]]:
    """The tables with every value in the type of its option. Raises ConfigError for what is impossible."""
    checked = {}
    for name, table in tables.items():
        setting = read_setting(name, tables, where="options")
        setting.build()
        values = {"method": setting.method, **setting.options}
        checked[name] = {key: value.name if isinstance(value := values[key], Setting) else value for key in table}
    return checked


def read_setting(name: str, tables: Tables, *, where: str) -> Setting:
    """The setting ``name``, of the method of that name or the one its table says.

    where: the field that names it. Raises ConfigError for a name, an option or a value that is impossible.
    """
    return _read(name, tables, where, above=())


def _read(name: str, tables: Tables, where: str, above: tuple[str, ...]) -> Setting:
    if name in above:
        raise ConfigError(f"{where}: {name!r} would be built on itself")
    method = _method_of(name, tables, where)
    # Of a setting with a name of its own, the table comes after the method's and overrides it.
    given = {key: (table, value) for table in (method, name) for key, value in tables.get(table, {}).items()}
    given.pop("method", None)
    options: dict[str, Any] = {}
    for key, (table, value) in given.items():
        option = find_option(METHODS[method].kind, key, where=f"options.{table}")
        options[key] = option.check(f"options.{table}", value)
        if option.is_method and options[key] is not None:
            options[key] = _read(options[key], tables, f"options.{table}.{key}", (*above, name))
    for option in options_of(METHODS[method].kind).values():
        if option.default is REQUIRED and option.name not in options:
            raise ConfigError(f"options.{name}.{option.name}: not given, expected {option.describe()}")
    return Setting(name, method, options)


def _method_of(name: str, tables: Tables, where: str) -> str:
    """The method that the setting ``name`` is of."""
    methods = ", ".join(METHODS)
    method = tables.get(name, {}).get("method")
    if name in METHODS:
        if method not in (None, name):
            raise ConfigError(f"options.{name}.method: {method!r}, but {name} is a method itself")
        return name
    if name not in tables:
        raise ConfigError(f"{where}: {name!r}, expected one of {methods}, or a name with options.{name}.method")
    if re.fullmatch(r"[\w-]+", name, re.ASCII) is None:
        raise ConfigError(f"options: {name!r}, expected a name of letters, digits, - and _")
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"options.{name}.method: {method!r}, expected one of {methods}")
    return method


def label_settings(settings: Sequence[Setting]) -> dict[str, str]:
    """What tables call each setting: the method and what it builds on, and the setting's name where two are alike."""
    methods = {setting.name: _label(METHODS[setting.method], setting.build()) for setting in settings}
    shared = Counter(methods.values())
    return {
        setting.name: methods[setting.name]
        + (f" ({setting.name})" if shared[methods[setting.name]] > 1 and setting.name != setting.method else "")
        for setting in settings
    }


def shown(value: Any) -> str:
    """The value of an option for a reader: a setting by its name, the rest as it may be typed."""
    if isinstance(value, Setting):
        return value.name
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _label(known: Known, method: Method) -> str:
    """The label of a method and, joined by +, of those it builds on, which are attributes named as their options."""
    inner = [getattr(method, name) for name, option in options_of(known.kind).items() if option.is_method]
    by_kind = {entry.kind: entry for entry in METHODS.values()}
    return " + ".join([known.label, *(_label(by_kind[type(base)], base) for base in inner if base is not None)])
