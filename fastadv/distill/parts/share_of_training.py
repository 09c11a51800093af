"""A point in training that an option names."""

from __future__ import annotations

from fastadv.ops import checks


def share_of_training(name: str, value: float) -> float:
    """Return ``value`` as a float in [0, 1]. Raises TypeError, and ValueError for any other."""
    result = checks.not_negative(name, value)
    if result > 1:
        raise ValueError(
            f"{name} must be a share of the training in [0, 1], as 60 of 200 epochs are 0.3, got {value!r}"
        )
    return result
