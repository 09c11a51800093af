"""The attacks as objects, for people who configure once: ``PGD(eps=8 / 255)(model, x, y)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import count, step_count
from fastadv.attacks.loop.objective import check_loss
from fastadv.attacks.methods.apgd import apgd
from fastadv.attacks.methods.bss import bss
from fastadv.attacks.methods.fgsm import fgsm
from fastadv.attacks.methods.mi_fgsm import mi_fgsm
from fastadv.attacks.methods.pgd import pgd
from fastadv.attacks.methods.svgd import VARIANTS, svgd
from fastadv.attacks.methods.vat import vat
from fastadv.attacks.model.networks import Network
from fastadv.ops import checks
from fastadv.ops.svgd import UPDATES


class Attack:
    """An attack of this package with its keywords bound.

    The keywords and their defaults are those of the function. They are checked where the object is made: TypeError for
    one that is unknown, missing or of the wrong type, ValueError for a wrong value; how per-sample tensors fit a batch
    is checked at the call. An int ``seed`` gives the same noise at each call, None another each time.

    Attributes:
        keywords: those that were given, read-only.
    """

    _function: ClassVar[Callable[..., Tensor]]
    __signature__: ClassVar[Signature]

    def __init_subclass__(cls, *, function: Callable[..., Tensor]) -> None:
        parameters = signature(function).parameters.values()
        cls._function = staticmethod(function)
        cls.__signature__ = Signature([each for each in parameters if each.kind is Parameter.KEYWORD_ONLY])

    def __init__(self, **keywords: Any) -> None:
        try:
            self.__signature__.bind(**keywords)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        for name, value in keywords.items():
            if value is not None or self.__signature__.parameters[name].default is not None:
                _CHECKS[name](name, value)
        self._keywords = keywords

    @property
    def keywords(self) -> Mapping[str, Any]:
        return MappingProxyType(self._keywords)

    def __call__(
        self, model: Network | Sequence[Network], x: Tensor, y: Tensor | None = None, **changes: Any
    ) -> Tensor:
        """The function on ``model``, ``x`` and, where it takes one, ``y``; ``changes`` replace keywords this once."""
        labels = () if y is None else (y,)
        return self._function(model, x, *labels, **{**self._keywords, **changes})

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={_readable(value)}" for name, value in self._keywords.items())
        return f"{type(self).__name__}({given})"


class PGD(Attack, function=pgd):
    """:func:`fastadv.attacks.pgd`, configured once: ``PGD(eps=8 / 255, steps=20)(model, x, y)``."""


class FGSM(Attack, function=fgsm):
    """:func:`fastadv.attacks.fgsm`, configured once: ``FGSM(eps=8 / 255)(model, x, y)``."""


class MIFGSM(Attack, function=mi_fgsm):
    """:func:`fastadv.attacks.mi_fgsm`, configured once: ``MIFGSM(eps=8 / 255, decay=0.9)(model, x, y)``."""


class APGD(Attack, function=apgd):
    """:func:`fastadv.attacks.apgd`, configured once: ``APGD(eps=8 / 255, loss="dlr", steps=100)(model, x, y)``."""


class SVGD(Attack, function=svgd):
    """:func:`fastadv.attacks.svgd`, configured once: ``SVGD(eps=8 / 255, particles=8)(model, x, y)``."""


class BSS(Attack, function=bss):
    """:func:`fastadv.attacks.bss`, configured once: ``BSS(steps=5)(model, x, target)``."""


class VAT(Attack, function=vat):
    """:func:`fastadv.attacks.vat`, configured once: ``VAT(eps=1.0)(model, x)``."""


def _readable(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{value.dtype} {list(value.shape)}>".replace("torch.", "")
    return getattr(value, "__name__", repr(value)) if callable(value) else repr(value)


def _batch_of(value: Any) -> Tensor:
    """As many samples as ``value`` has entries, where it has one a sample."""
    return value.new_empty(value.shape[:1] or 1) if isinstance(value, Tensor) else torch.empty(0)


def _reference(name: str, value: Any) -> None:
    """Logits, or true classes for a targeted "dlr"."""
    if getattr(value, "dtype", None) is not torch.int64:
        checks.floating(name, value)


def _among(choices: Mapping[str, Any]) -> Callable[[str, Any], object]:
    return lambda name, value: checks.choice(name, value, choices)


# What can be said of a keyword without the images, the same in every attack.
_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "eps": lambda name, value: checks.radius(name, value, _batch_of(value)),
    "step_size": lambda name, value: checks.step(name, value, _batch_of(value)),
    "steps": lambda name, value: step_count(value, _batch_of(value)),
    "norm": _among(checks.NORMS),
    "loss": lambda name, value: check_loss(value),
    "reference": _reference,
    "targeted": checks.flag,
    "random_start": checks.flag,
    "start_eps": lambda name, value: checks.radius(name, value, _batch_of(value)),
    "restarts": lambda name, value: count(name, value, 1),
    "best": checks.flag,
    "stop_early": checks.flag,
    "bounds": lambda name, value: checks.box(value),
    "mode": _among(checks.MODES),
    "seed": lambda name, value: checks.seed(value, _batch_of(value)),
    "sample_ids": lambda name, value: checks.int64(name, value, [_batch_of(value).shape[0]], _batch_of(value)),
    "l1_fraction": checks.fraction,
    "decay": checks.number,
    "rho": checks.fraction,
    "particles": lambda name, value: count(name, value, 1),
    "bandwidth": lambda name, value: checks.number_or(name, value, "median"),
    "update": _among(UPDATES),
    "score_scale": lambda name, value: checks.number_or(name, value, "rms"),
    "variant": _among(VARIANTS),
    "xi": checks.positive,
}
