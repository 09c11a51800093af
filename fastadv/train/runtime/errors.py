"""Errors a user can cause and mend. The command line prints their message without a traceback."""

import difflib
from collections.abc import Iterable


class TrainError(Exception):
    """Base of the trainer's own errors."""


class ConfigError(TrainError, ValueError):
    """A field of the configuration is unknown, has the wrong type or an impossible value."""


class DataError(TrainError, ValueError):
    """A dataset is missing, damaged or not what its layout promises."""


class CheckpointError(TrainError, ValueError):
    """A checkpoint is missing, damaged or made for another network."""


class DivergenceError(TrainError, ArithmeticError):
    """The loss became infinite or NaN."""


class MissingExtraError(TrainError, ImportError):
    """An optional dependency is needed and not installed."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause for the message of an unknown ``name``: the nearest of ``names``; empty where none is near."""
    by_lower = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return f", did you mean {by_lower[near[0]]}?" if near else ""
