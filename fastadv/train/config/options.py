"""The options of a method: the arguments of its constructor, whose signature is their schema."""

import inspect
import typing
from dataclasses import dataclass
from typing import Any

from fastadv.distill import Method
from fastadv.train.config.values import check, describe_type, expressible, is_union
from fastadv.train.runtime.errors import ConfigError

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """An argument: its type, what it is where it is not given (or REQUIRED), and whether it is a method itself."""

    name: str
    hint: Any
    default: Any
    is_method: bool

    def check(self, where: str, value: Any) -> Any:
        """``value`` of a recipe as the type of the option; the name of a method stays one. Raises ConfigError."""
        return check(f"{where}.{self.name}", self.hint, value)

    def describe(self) -> str:
        """What may be given for it, in a word."""
        return "METHOD" if self.is_method else describe_type(self.hint)


def options_of(kind: type[Method]) -> dict[str, Option]:
    """The options of a class by name: those arguments that a recipe can hold."""
    hints = typing.get_type_hints(kind.__init__)
    options = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        is_method = _is_method(hints.get(name))
        hint = str | None if is_method else expressible(hints.get(name))
        if hint is not None:
            options[name] = Option(name, hint, parameter.default, is_method)
    return options


def find_option(kind: type[Method], name: str, *, where: str) -> Option:
    """The option ``name``. Raises ConfigError naming ``where`` and the options there are."""
    options = options_of(kind)
    if name not in options:
        there_are = f"the options are {', '.join(options)}" if options else "it has no options"
        raise ConfigError(f"{where}.{name}: no such option; {there_are}")
    return options[name]


def _is_method(hint: Any) -> bool:
    alternatives = typing.get_args(hint) if is_union(hint) else (hint,)
    return any(inspect.isclass(kind) and issubclass(kind, Method) for kind in alternatives)
