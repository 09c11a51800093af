"""Attacks as objects, for people who configure once: ``PGD(eps=8 / 255)(model, x, y)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import count, step_count
from fastadv.attacks.loop.objective import check_loss, reads_classes
from fastadv.attacks.model.networks import Network
from fastadv.near_misses import check_keywords
from fastadv.ops import checks

# Called with a keyword's name and value; raises TypeError or ValueError where it is wrong whatever the images are.
Check = Callable[[str, Any], object]

# Every attack by the name of its function; the class of an attack enters itself where it is defined.
ATTACKS: dict[str, type[Attack]] = {}


class Attack:
    """An attack of this package with its keywords bound.

    The keywords and their defaults are those of the function. They are checked where the object is made: TypeError for
    one that is unknown, missing or of the wrong type, ValueError for a wrong value; how per-sample tensors fit a batch
    is checked at the call. An int ``seed`` gives the same noise at each call, None another each time.

    Attributes:
        function: the function itself.
        keywords: those that were given, read-only.
    """

    function: ClassVar[Callable[..., Tensor]]
    _checks: ClassVar[Mapping[str, Check]]
    __signature__: ClassVar[Signature]

    def __init_subclass__(
        cls, *, function: Callable[..., Tensor], own_checks: Mapping[str, Check] | None = None
    ) -> None:
        """Make ``cls`` the object of ``function``; own_checks: of the keywords that no other attack has."""
        parameters = signature(function).parameters.values()
        cls.function = staticmethod(function)
        cls._checks = {**_SHARED_CHECKS, **(own_checks or {})}
        cls.__signature__ = Signature([each for each in parameters if each.kind is Parameter.KEYWORD_ONLY])
        ATTACKS[function.__name__] = cls

    def __init__(self, **keywords: Any) -> None:
        check_keywords(f"{type(self).__name__}:", keywords, self.__signature__.parameters)
        try:
            self.__signature__.bind(**keywords)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        for name, value in keywords.items():
            if value is not None or self.__signature__.parameters[name].default is not None:
                self._checks[name](name, value)
        self._keywords = keywords

    @property
    def reads_labels(self) -> bool:
        """True where y is used: not by an attack without labels, nor with a loss that brings its own."""
        takes, given = self.__signature__.parameters, self._keywords
        if "y" not in signature(self.function).parameters or given.get("variant") == "released":
            return False
        return "loss" not in takes or reads_classes(given.get("loss", takes["loss"].default))

    @property
    def keywords(self) -> Mapping[str, Any]:
        return MappingProxyType(self._keywords)

    def __call__(
        self, model: Network | Sequence[Network], x: Tensor, y: Tensor | None = None, **changes: Any
    ) -> Tensor:
        """Call the function with ``model``, ``x`` and ``y`` where given; ``changes`` replace keywords this once."""
        labels = () if y is None else (y,)
        return self.function(model, x, *labels, **{**self._keywords, **changes})

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={_readable(value)}" for name, value in self._keywords.items())
        return f"{type(self).__name__}({given})"


def among(choices: Mapping[str, Any]) -> Check:
    """Return the check of a keyword that is one of ``choices``."""
    return lambda name, value: checks.choice(name, value, choices)


def _readable(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{value.dtype} {list(value.shape)}>".replace("torch.", "")
    return getattr(value, "__name__", repr(value)) if callable(value) else repr(value)


def _batch_of(value: Any) -> Tensor:
    """Return as many samples as ``value`` has entries, where it has one a sample."""
    return value.new_empty(value.shape[:1] or 1) if isinstance(value, Tensor) else torch.empty(0)


def _of_pixels(check: Callable[[str, Any, Tensor], object]) -> Check:
    """Return ``check`` of numbers, which lets pass what has one for each channel or pixel."""

    def checked(name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.dim() > 1:
            checks.floating(name, value)
        else:
            check(name, value, _batch_of(value))

    return checked


def _bounds(name: str, value: Any) -> None:
    if not (isinstance(value, (tuple, list)) and any(isinstance(bound, Tensor) for bound in value)):
        checks.box(value)


def _reference(name: str, value: Any) -> None:
    """Check logits, or true classes for a targeted "dlr"."""
    if getattr(value, "dtype", None) is not torch.int64:
        checks.floating(name, value)


def _mask(name: str, value: Any) -> None:
    if getattr(value, "dtype", None) is not torch.bool:
        raise TypeError(f"{name} must be a bool tensor, got {getattr(value, 'dtype', type(value).__name__)}")


# What can be said of a keyword without the images, the same in every attack.
_SHARED_CHECKS: dict[str, Check] = {
    "eps": _of_pixels(checks.radius),
    "step_size": _of_pixels(checks.step),
    "steps": lambda name, value: step_count(value, _batch_of(value)),
    "norm": among(checks.NORMS),
    "loss": lambda name, value: check_loss(value),
    "reference": _reference,
    "targeted": checks.flag,
    "random_start": checks.flag,
    "start_eps": lambda name, value: checks.radius(name, value, _batch_of(value)),
    "restarts": lambda name, value: count(name, value, 1),
    "best": checks.flag,
    "bounds": _bounds,
    "mode": among(checks.MODES),
    "seed": lambda name, value: checks.seed(value, _batch_of(value)),
    "sample_ids": lambda name, value: checks.int64(name, value, [_batch_of(value).shape[0]], _batch_of(value)),
    "l1_fraction": checks.fraction,
    "mask": _mask,
    "eot": lambda name, value: count(name, value, 1),
    "quantize": checks.flag,
    "check": checks.flag,
}
