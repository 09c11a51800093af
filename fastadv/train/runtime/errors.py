"""Errors a user can cause and mend. The command line prints their message without a traceback."""

from collections.abc import Iterable

from fastadv.near_misses import did_you_mean as did_you_mean


class TrainError(Exception):
    """Base of the trainer's own errors."""


class ConfigError(TrainError, ValueError):
    """A field of the configuration is unknown, has the wrong type or an impossible value."""


def unknown_name(field: str, name: str, names: Iterable[str], expected: str = "") -> ConfigError:
    """Return the error of a ``name`` in ``field`` that is none of ``names``, or of what is ``expected`` in words."""
    expected = expected or ", ".join(names)
    return ConfigError(f"{field}: {name!r}{did_you_mean(name, names) or ','} expected one of {expected}")


def in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


class DataError(TrainError, ValueError):
    """A dataset is missing, damaged or not what its layout promises."""


class CheckpointError(TrainError, ValueError):
    """A checkpoint is missing, damaged or made for another network."""


class DivergenceError(TrainError, ArithmeticError):
    """The loss became infinite or NaN."""


class MissingExtraError(TrainError, ImportError):
    """An optional dependency is needed and not installed."""
