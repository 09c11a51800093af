"""The text of `fastadv methods`: the methods, their options and what they compute, from the classes themselves."""

import inspect
import re
import textwrap
from typing import TYPE_CHECKING

from fastadv.train.config.config_model import shown
from fastadv.train.config.methods import METHODS, REQUIRED, Option, options_of
from fastadv.train.runtime.errors import unknown_name

if TYPE_CHECKING:
    from fastadv.distill import Method

COLUMNS = 120


def list_methods() -> str:
    """Return every method: its name, the first line of its docstring, its options with their defaults."""
    width = max(map(len, METHODS))
    blocks = []
    for name, entry in METHODS.items():
        blocks.append(f"{name:<{width}}  {_docstring(entry.kind).splitlines()[0]}")
        options = " ".join(f"{option.name}={_default(option)}" for option in options_of(entry.kind).values())
        margin = " " * (width + 2)
        blocks += textwrap.wrap(options, COLUMNS, initial_indent=margin, subsequent_indent=margin)
    return "\n".join(blocks)


def explain_method(name: str) -> str:
    """Return one method in full. Raises ConfigError for a name that is none."""
    if name not in METHODS:
        raise unknown_name("methods", name, METHODS)
    kind = METHODS[name].kind
    options = options_of(kind).values()
    rows = [(f"--option {name}.{option.name}=", option.describe(), _default(option)) for option in options]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([f"{name}: {METHODS[name].label}", "", _docstring(kind), "", *(table or ["No options."])])


def _docstring(kind: "type[Method]") -> str:
    """Return the docstring of a class as plain text: without the marks of references and literals."""
    text = re.sub(r"^=+( +=+)+$.*^=+( +=+)+$", _table, inspect.getdoc(kind) or "", flags=re.DOTALL | re.MULTILINE)
    return re.sub(r":\w+:`([^`]*)`|``(.*?)``", r"\1\2", text, flags=re.DOTALL)


def _table(found: re.Match[str]) -> str:
    """Return a table without the marks of literals, its columns where they are."""
    return re.sub(r"``(.*?)``((?: ?\S+)*)", r"\1\2    ", found[0])


def _default(option: Option) -> str:
    return "(required)" if option.default is REQUIRED else shown(option.default)
