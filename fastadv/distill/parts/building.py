"""Modules of a method that depend on the networks: a stand-in until they are built, an example for their shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks.model.guard import evaluating
from fastadv.distill.method import Method
from fastadv.distill.parts.features import Features, features_of
from fastadv.distill.parts.teacher import required


class UninitializedModule(nn.Module):
    """A stand-in for a module of ``method`` that its ``build`` makes. Raises RuntimeError when called or loaded."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    def load_state_dict(self, *args: Any, **keywords: Any) -> Any:
        return self()

    def forward(self, *args: object) -> Tensor:
        raise RuntimeError(
            f"{self._method} learns modules of its own: call build(student, teacher, x, images=...) first"
        )


def example_features(
    method: Method, student: nn.Module, teacher: nn.Module | None, x: Tensor
) -> tuple[Features, Features]:
    """Return the features of the first image of ``x`` in student and teacher, for their shapes; both stay as they were.

    Raises TypeError where one of them shows nothing.
    """
    networks = {"student": student, "teacher": required(method, teacher)}
    with evaluating(networks.values()), torch.no_grad():
        of_student, of_teacher = (features_of(name, network, x[:1]) for name, network in networks.items())
    return of_student, of_teacher
