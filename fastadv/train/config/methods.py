"""The methods by the names of recipes and the command line, with the options of a run."""

import contextlib
import inspect
import pkgutil
import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fastadv.train.config.config_model import checked, describe, expressible
from fastadv.train.runtime.errors import ConfigError, did_you_mean, unknown_name

if TYPE_CHECKING:
    from fastadv.distill import Method
    from fastadv.distill.method import Network

REQUIRED = inspect.Parameter.empty

# Of a recipe. A table is called as a method and holds options of it; or it has another name, says which "method" it is
# another setting of, and holds what differs from the table of that method.
Tables = Mapping[str, Mapping[str, Any]]


class MethodEntry(NamedTuple):
    """MODULE:CLASS of fastadv.distill, or a class; its constructor's arguments are the options. label: in tables."""

    target: "str | type[Method]"
    label: str

    @property
    def kind(self) -> "type[Method]":
        """The class. Imports torch."""
        return pkgutil.resolve_name(f"fastadv.distill.{self.target}") if isinstance(self.target, str) else self.target


# A new method is a line here.
METHODS: dict[str, MethodEntry] = {
    "ce": MethodEntry("cross_entropy:CrossEntropy", "plain (CE)"),
    "kd": MethodEntry("kd:KD", "KD"),
    "fitnet": MethodEntry("fitnet:FitNet", "FitNet"),
    "at": MethodEntry("at:AT", "AT"),
    "sp": MethodEntry("sp:SP", "SP"),
    "vid": MethodEntry("vid:VID", "VID"),
    "ft": MethodEntry("ft:FT", "FT"),
    "crd": MethodEntry("crd:CRD", "CRD"),
    "rkd": MethodEntry("rkd:RKD", "RKD"),
    "dkd": MethodEntry("dkd:DKD", "DKD"),
    "triplet": MethodEntry("triplet:TripletKD", "triplet KD"),
    "tald": MethodEntry("tald:TALD", "TALD"),
    "bss": MethodEntry("bss:BSS", "BSS"),
    "amkd": MethodEntry("amkd:AMKD", "AMKD"),
    "pgd-at": MethodEntry("adversarial_training:PGDAT", "PGD-AT"),
    "trades": MethodEntry("adversarial_training:TRADES", "TRADES"),
    "ard": MethodEntry("ard:ARD", "ARD"),
    "rslad": MethodEntry("rslad:RSLAD", "RSLAD"),
    "adaad": MethodEntry("adaad:AdaAD", "AdaAD"),
    "iad": MethodEntry("iad:IAD", "IAD-I"),
    "iad-ii": MethodEntry("iad:IADII", "IAD-II"),
    "ada-iad": MethodEntry("iad:AdaIAD", "AdaIAD"),
    "igdm": MethodEntry("igdm:IGDM", "IGDM"),
    "saad": MethodEntry("saad:SAAD", "SAAD"),
    "data-free": MethodEntry("data_free:DataFree", "data-free"),
    "ai-kd": MethodEntry("aikd:AIKD", "AI-KD"),
}


class Option(NamedTuple):
    """An argument of a constructor: its type, its default (or REQUIRED), and whether it is a method itself."""

    name: str
    hint: Any
    default: Any
    is_method: bool

    def describe(self) -> str:
        """Return what may be given for it, in a word."""
        return "METHOD" if self.is_method else describe(self.hint)


@dataclass(frozen=True)
class MethodSpec:
    """A method of METHODS with the options that were given; what it is built on, given or not, is a spec too."""

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> "type[Method]":
        return METHODS[self.method].kind

    def build(self, **networks: "Network | None") -> "Method":
        """Build the method. Raises ConfigError naming it for values that its constructor refuses.

        networks: arguments that no recipe can hold, for the constructors that have one of that name.
        """
        arguments = {
            name: value.build(**networks) if isinstance(value, MethodSpec) else value
            for name, value in self.options.items()
        }
        taken = {name: networks[name] for name in inspect.signature(self.kind).parameters if name in networks}
        try:
            return self.kind(**arguments, **taken)
        except (TypeError, ValueError) as error:
            method = "" if self.name == self.method else f" ({self.method})"
            raise ConfigError(f"options.{self.name}{method}: {error}") from None

    def takes(self, network: str) -> bool:
        """Return whether the constructor, or that of a method it is built on, has an argument ``network``."""
        return any(network in inspect.signature(part.kind).parameters for part in self.parts())

    def claims(self, attribute: str) -> bool:
        """Return whether the class, or one that the method is built on, has the attribute true."""
        return any(getattr(part.kind, attribute) for part in self.parts())

    def names(self) -> set[str]:
        """Return the names of the tables the spec depends on: its own, its method's, those of what it is built on."""
        return {name for part in self.parts() for name in (part.name, part.method)}

    @property
    def label(self) -> str:
        """The method's name in tables and, joined by +, those of what it is built on."""
        label_of = {entry.kind: entry.label for entry in METHODS.values()}
        return " + ".join(label_of[part.kind] for part in self.parts())

    def parts(self) -> "Iterator[MethodSpec]":
        """The spec itself and those that it is built on."""
        yield self
        for base in self._bases:
            yield from base.parts()

    @property
    def _bases(self) -> "list[MethodSpec]":
        return [value for value in self.options.values() if isinstance(value, MethodSpec)]


def options_of(kind: "type[Method]") -> dict[str, Option]:
    """Return the options of a class by name: those arguments of its constructor that a recipe can hold."""
    from fastadv.distill import Method

    hints = typing.get_type_hints(kind.__init__)
    options = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        members = typing.get_args(hints.get(name)) or (hints.get(name),)
        is_method = any(inspect.isclass(member) and issubclass(member, Method) for member in members)
        hint = str | None if is_method else expressible(hints.get(name))
        if hint is not None:
            options[name] = Option(name, hint, parameter.default, is_method)
    return options


def check_tables(tables: Tables) -> dict[str, dict[str, Any]]:
    """Return the tables with every value in the type of its option. Raises ConfigError for what is impossible."""
    result: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        spec = read_spec(name, tables, where="options")
        spec.build()
        values = {"method": spec.method, **spec.options}
        result[name] = {key: value.name if isinstance(value := values[key], MethodSpec) else value for key in table}
    return result


def label_specs(specs: Sequence[MethodSpec], tables: Tables) -> dict[str, str]:
    """Return what reports call each spec: its label, with its own name where another setting has the same.

    The method as ``tables`` have it under its own name is such a setting, among the specs or not.
    """
    labels = {spec.name: spec.label for spec in specs}
    for spec in specs:
        with contextlib.suppress(ConfigError):  # of an option that has to be given, and is given here alone
            labels.setdefault(spec.method, read_spec(spec.method, tables, where="methods").label)
    shared = Counter(labels.values())
    return {
        spec.name: f"{spec.label} ({spec.name})" if shared[spec.label] > 1 and spec.name != spec.method else spec.label
        for spec in specs
    }


def check_name(name: str, tables: Tables, *, where: str) -> str:
    """Return the method that the spec ``name`` is of. Raises ConfigError naming ``where`` for a name that is none."""
    method = tables.get(name, {}).get("method")
    if name in METHODS:
        if method not in (None, name):
            raise ConfigError(f"options.{name}.method: {method!r}, but {name} is a method itself")
        return name
    if method is None:
        expected = f"{', '.join(METHODS)}, or a name with options.{name}.method"
        raise unknown_name(where, name, [*METHODS, *(tables.keys() - {name})], expected)
    if re.fullmatch(r"[\w-]+", name, re.ASCII) is None:
        raise ConfigError(f"options: {name!r}, expected a name of letters, digits, - and _")
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"options.{name}.method: {method!r}, expected one of {', '.join(METHODS)}")
    return method


def read_spec(name: str, tables: Tables, *, where: str, above: tuple[str, ...] = ()) -> MethodSpec:
    """Read the spec ``name``, of the method of that name or the one its table says.

    where: the field that names it. above: the specs that are built on it. Raises ConfigError for a name, an option or a
    value that is impossible.
    """
    if name in above:
        raise ConfigError(f"{where}: {name!r} would be built on itself")
    method = check_name(name, tables, where=where)
    known = options_of(METHODS[method].kind)
    # Of a spec with a name of its own, the table comes after the method's and overrides it.
    given = {key: (table, value) for table in (method, name) for key, value in tables.get(table, {}).items()}
    given.pop("method", None)
    options: dict[str, Any] = {}
    for key, (table, value) in given.items():
        if key not in known:
            there_are = f"the options are {', '.join(known)}" if known else "it has no options"
            raise ConfigError(f"options.{table}.{key}: no such option{did_you_mean(key, known)}; {there_are}")
        options[key] = checked(f"options.{table}.{key}", known[key].hint, value)
        if known[key].is_method and options[key] is not None:
            options[key] = read_spec(options[key], tables, where=f"options.{table}.{key}", above=(*above, name))
    base = METHODS[method].kind.default_base
    for option in known.values():
        if option.default is REQUIRED and option.name not in options:
            raise ConfigError(f"options.{name}.{option.name}: not given, expected {option.describe()}")
        if option.is_method and base is not None and options.get(option.name) is None:
            # Its table counts as it does for a base that is given.
            default = next(each for each, entry in METHODS.items() if entry.kind is base)
            options[option.name] = read_spec(default, tables, where=where, above=(*above, name))
    return MethodSpec(name, method, options)
