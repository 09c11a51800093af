"""Every attack with every option that changes what its loop does, for the promises that all of them keep."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastadv import attacks
from fastadv.attacks import APGD, BSS, FGSM, MIFGSM, PGD, SVGD, VAT, Attack, apgd, bss, mi_fgsm, pgd, svgd, vat


def own(x: Tensor) -> dict[str, Any]:
    """Radius, step size and number of steps of each sample's own; the first moves nowhere."""
    eps = torch.linspace(0, 0.3, len(x), device=x.device)
    return {"eps": eps, "step_size": eps / 4, "steps": torch.arange(len(x)) % 4}


def unlabelled(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda model, x, y=None, **keywords: attack(model, x, **keywords)


def to_a_class(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``attack`` without noise of its own, on the second class where none is given: at the first it may stop soon."""

    def attacked(model, x, y=None, seed=None, sample_ids=None):
        return attack(model, x, torch.ones(len(x), dtype=torch.int64, device=x.device) if y is None else y)

    return attacked


def to_the_first_class(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``attack`` towards the labels, or the first class where none are given."""

    def attacked(model, x, y=None, **keywords):
        y = torch.zeros(len(x), dtype=torch.int64, device=x.device) if y is None else y
        return attack(model, x, y, **keywords)

    return attacked


def margin(logits: Tensor) -> Tensor:
    return logits.logsumexp(1) - logits[:, 0]


def apart(logits: tuple[Tensor, ...]) -> Tensor:
    first, second = (z.softmax(1) for z in logits)
    return (first - second).square().sum(1)


def two_networks(model, x, y=None, **keywords):
    return pgd([model, lambda x: model(1 - x)], x, eps=0.1, steps=3, loss=apart, **keywords)


def plainest(kind: type[Attack]) -> Callable[..., Tensor]:
    """An attack with nothing but a radius and few steps, where it takes them."""
    takes = inspect.signature(kind.function).parameters
    attack = kind(**{name: value for name, value in {"eps": 0.1, "steps": 3, "queries": 3}.items() if name in takes})
    if "target" in takes:
        return to_a_class(attack)
    return attack if "y" in takes else unlabelled(attack)


# Each is called as attack(model, x, y, seed=..., sample_ids=...). Every attack of the library is here as it comes.
ATTACKS: dict[str, Callable[..., Tensor]] = {
    **{name: plainest(kind) for name, kind in attacks.ATTACKS.items()},
    "fgsm random start": FGSM(eps=0.1, random_start=True, step_size=0.125),
    "pgd clean start": PGD(eps=0.1, steps=3, random_start=False),
    "pgd near start": PGD(eps=0.1, steps=3, start_eps=0.01),
    "pgd sequential": PGD(eps=0.1, steps=3, mode="sequential"),
    "pgd l2": PGD(eps=0.5, steps=3, norm="l2"),
    "pgd l1": PGD(eps=5.0, steps=3, norm="l1", l1_fraction=0.2),
    "pgd best": PGD(eps=0.1, steps=3, best=True),
    "pgd restarts": to_the_first_class(PGD(eps=0.1, steps=3, restarts=2, best=True, targeted=True)),
    "pgd kl": unlabelled(PGD(eps=0.1, steps=3, loss="kl")),
    "pgd callable": unlabelled(PGD(eps=0.1, steps=3, loss=margin)),
    "pgd two networks": two_networks,
    "pgd of each": lambda model, x, *y, **keywords: pgd(model, x, *y, **own(x), **keywords),
    "pgd l2 of each": lambda model, x, *y, **keywords: pgd(
        model, x, *y, norm="l2", restarts=2, best=True, **own(x), **keywords
    ),
    "mi_fgsm l2 restarts": MIFGSM(eps=0.5, steps=3, norm="l2", decay=0.5, random_start=True, restarts=2, best=True),
    "mi_fgsm l1": MIFGSM(eps=5.0, steps=3, norm="l1", l1_fraction=0.2),
    "mi_fgsm of each": lambda model, x, *y, **keywords: mi_fgsm(model, x, *y, random_start=True, **own(x), **keywords),
    "apgd": APGD(eps=0.1, steps=6),
    "apgd l2 restarts": APGD(eps=0.5, steps=6, norm="l2", restarts=2, random_start=False),
    "apgd dlr": APGD(eps=0.1, steps=6, loss="dlr", mode="sequential"),
    "apgd targeted dlr": to_the_first_class(APGD(eps=0.1, steps=6, loss="dlr", targeted=True)),
    "apgd l1": APGD(eps=5.0, steps=6, norm="l1"),
    "apgd l1 restarts": APGD(eps=5.0, steps=8, norm="l1", restarts=2, random_start=False),
    "apgd l1 of each": lambda model, x, *y, **keywords: apgd(
        model, x, *y, norm="l1", **own(x) | {"steps": torch.arange(len(x)) * 2}, **keywords
    ),
    "apgd of each": lambda model, x, *y, **keywords: apgd(
        model, x, *y, restarts=2, **own(x) | {"steps": torch.arange(len(x)) * 2}, **keywords
    ),
    "bss without a box": to_a_class(BSS(steps=4, step_size=0.1, bounds=None)),
    "bss of each": to_a_class(
        lambda model, x, y: bss(model, x, y, step_size=own(x)["step_size"], steps=own(x)["steps"])
    ),
    "svgd l2 raw": SVGD(eps=0.5, steps=2, norm="l2", update="raw", bandwidth=0.5, score_scale=1.0),
    "svgd l1": SVGD(eps=5.0, steps=2, norm="l1"),
    "svgd of each": lambda model, x, *y, **keywords: svgd(model, x, *y, **own(x), **keywords),
    "svgd released": unlabelled(SVGD(eps=0.1, variant="released")),
    "vat in a box": unlabelled(VAT(eps=0.5, steps=3, bounds=(0.0, 1.0))),
    "vat of each": unlabelled(
        lambda model, x, **keywords: vat(model, x, eps=own(x)["eps"], steps=own(x)["steps"], **keywords)
    ),
}


def every_attack_but(*words: str) -> pytest.MarkDecorator:
    """Parametrises ``attack`` by all whose name has none of ``words`` in it."""
    kept = [
        pytest.param(attack, id=name.replace(" ", "-"))
        for name, attack in ATTACKS.items()
        if not any(word in name for word in words)
    ]
    return pytest.mark.parametrize("attack", kept)


every_attack = every_attack_but()

# Their rows come from a queue, which asks at each step which images fell.
QUEUED = ("fab", "square")
