"""Arguments that a call may leave out: defaults of schemas and public functions agree, on every backend."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv
from fastadv.ops import checks, dispatch
from fastadv.ops.schemas import SCHEMAS
from fastadv.ops.svgd import UPDATES

STEPS = [op for op, schema in SCHEMAS.items() if "norm=" in schema]
# Which code of the schema stands for an argument of the public function.
CODES: dict[str, dict[str, Any]] = {
    "norm": checks.NORMS,
    "mode": checks.MODES,
    "update": UPDATES,
    "bandwidth": {"median": None},
}


def numbers(op: str) -> dict[str, Any]:
    """The schema's optional arguments that are no tensors, and their defaults."""
    arguments = getattr(torch.ops.fastadv, op).default._schema.arguments
    optional = [argument for argument in arguments if argument.has_default_value()]
    return {argument.name: argument.default_value for argument in optional if "Tensor" not in str(argument.type)}


def public(op: str) -> dict[str, Any]:
    """The defaults of the public function by the schema's names, in its codes."""
    parameters = inspect.signature(getattr(fastadv, op)).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    coded = {name: CODES[name][value] if name in CODES else value for name, value in defaults.items()}
    low, high = coded.pop("bounds")
    return coded | {"low": low, "high": high, "exact": coded.pop("mode", None)}


@pytest.mark.parametrize("op", [*STEPS, "bss_step"])
def test_the_defaults_are_those_of_the_public_function(op):
    of_function = public(op)
    assert numbers(op) == {name: of_function[name] for name in numbers(op)}
    assert list(numbers(op).values()) == list(dispatch._ops[op]._numbers)


@pytest.mark.parametrize("op", sorted(set(SCHEMAS) - {*STEPS, "bss_step"}))
def test_all_other_numbers_that_may_be_left_out_are_flags_of_gradients(op):
    assert all(name.endswith("grad") and default is False for name, default in numbers(op).items())


X = torch.tensor([[0.1, 0.9, 0.4], [0.2, 0.3, 1.0]])
GRAD = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.5, -1.0]])
RADII = torch.tensor([0.3, 0.1])
CALLS = {
    "project": lambda **kwargs: fastadv.project(X + GRAD, X, **{"eps": 0.5} | kwargs),
    "random_start": lambda **kwargs: fastadv.random_start(X, **{"eps": 0.5} | kwargs),
    "pgd_step": lambda **kwargs: fastadv.pgd_step(X, GRAD, X, **{"eps": 0.5, "step_size": 0.7} | kwargs),
    "momentum_step": lambda **kwargs: fastadv.momentum_step(
        X, GRAD, GRAD, X, **{"eps": 0.5, "step_size": 0.7} | kwargs
    )[0],
    "svgd_step": lambda **kwargs: fastadv.svgd_step(
        X[:, None].contiguous(), GRAD[:, None].contiguous(), X, **{"eps": 0.5, "step_size": 0.7} | kwargs
    ),
}
# What a call gives, and what of the schema's optional arguments it has to pass.
GIVEN: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "none"),
    ({"norm": "linf", "bounds": (0, 1.0)}, "none"),
    ({"bounds": (0.0, 1.05)}, "numbers"),
    ({"eps": RADII}, "all"),
)


@pytest.mark.parametrize(("keywords", "optional"), GIVEN, ids=str)
@pytest.mark.parametrize("op", CALLS)
def test_a_call_passes_what_differs_from_the_defaults_alone(op, keywords, optional, monkeypatch):
    passed: list[tuple[Any, ...]] = []
    served = dispatch._ops[op].on(X)

    def recorded(*arguments: Any) -> Tensor:
        passed.append(arguments)
        return served(*arguments)

    expected = CALLS[op](**keywords)
    monkeypatch.setattr(dispatch._ops[op], "_default", recorded)
    assert torch.equal(CALLS[op](**keywords), expected)
    arguments = served._schema.arguments
    required = sum(not argument.has_default_value() for argument in arguments)
    counts = {"none": required, "numbers": required + len(numbers(op)), "all": len(arguments)}
    assert len(passed[0]) == counts[optional]


@pytest.mark.parametrize("keywords", [keywords for keywords, _ in GIVEN], ids=str)
@pytest.mark.parametrize("op", CALLS)
def test_what_is_left_out_is_filled_in_on_every_backend(op, keywords, backend):
    with fastadv.use_backend("reference"):
        expected = CALLS[op](**keywords)
    torch.testing.assert_close(CALLS[op](**keywords), expected)


def test_a_gradient_that_is_not_needed_is_none(backend):
    op = dispatch._ops["kl_distill"].on(X)
    assert op(X, GRAD, 2.0, 1.0, False)[1:] == (None, None)
    assert op(X, GRAD, 2.0, 1.0, False, False, True)[1] is None
    _, grad_student, none = op(X, GRAD, 2.0, 1.0, False, True)
    assert none is None
    assert torch.equal(grad_student, op(X, GRAD, 2.0, 1.0, False, True, True)[1])
