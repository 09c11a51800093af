"""The methods by the names of recipes and the command line. A new one is a line of METHODS."""

from typing import NamedTuple

from fastadv.distill import KD, TALD, CrossEntropy, Method


class Known(NamedTuple):
    """A method's class, whose constructor's arguments are its options, and what tables call it."""

    kind: type[Method]
    label: str


METHODS: dict[str, Known] = {
    "ce": Known(CrossEntropy, "plain (CE)"),
    "kd": Known(KD, "KD"),
    "tald": Known(TALD, "TALD"),
}
