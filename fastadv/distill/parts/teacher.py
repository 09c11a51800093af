"""The teacher, which is only read."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.attacks.model.guard import evaluating
from fastadv.distill.method import Method, Network
from fastadv.distill.parts.features import Features, logits_from, observe


def teacher_logits(method: Method, teacher: Network | None, x: Tensor) -> Tensor:
    """Return ``teacher(x)`` in eval mode and without gradient; TypeError where ``method`` has no teacher."""
    network = required(method, teacher)
    with evaluating([network]), torch.no_grad():
        return logits_from("teacher", network, x)


def teacher_features(method: Method, teacher: Network | None, x: Tensor, *, deep: bool) -> Features:
    """Return the teacher's features of ``x``, see :func:`observe`; otherwise as :func:`teacher_logits`."""
    network = required(method, teacher)
    with evaluating([network]), torch.no_grad():
        return observe("teacher", network, x, deep=deep)


def required(method: Method, teacher: Network | None) -> Network:
    """Return ``teacher``; TypeError where it is None."""
    if teacher is None:
        raise TypeError(f"teacher must be a network for {type(method).__name__}, got None")
    return teacher
