"""attack_loss."""

from __future__ import annotations

from typing import Any

from tests.ops.cases.case import Case, Draw, Size, Tensors, calling
from tests.ops.cases.draws import Make


def _classified(draw: Draw, size: Size) -> Tensors:
    return {"logits": draw.normal(size, 2.0), "target": draw.classes(*size)}


def _misled(draw: Draw, size: Size) -> Tensors:
    return _classified(draw, size) | {"reference": draw.classes(*size)}


def _taught(draw: Draw, size: Size) -> Tensors:
    return {"logits": draw.normal(size, 2.0), "reference": draw.normal(size, 3.0)}


def _attack(name: str, *, make: Make = _classified, sizes: str = "logits", **keywords: Any) -> Case:
    call = calling("attack_loss", "logits", **keywords)
    return Case(name=name, kind="loss", sizes=sizes, make=make, call=call, differentiable=("logits",))


CASES = (
    _attack("attack_loss-ce"),
    _attack("attack_loss-log_odds", sizes="two_classes", kind="log_odds"),
    _attack("attack_loss-log_odds-targeted", sizes="four_classes", kind="log_odds", targeted=True),
    _attack("attack_loss-kl-targeted", make=_taught, kind="kl", targeted=True),
    _attack("attack_loss-cw", sizes="two_classes", kind="cw"),
    _attack("attack_loss-cw-targeted", sizes="four_classes", kind="cw", targeted=True),
    _attack("attack_loss-dlr", sizes="four_classes", kind="dlr"),
    _attack("attack_loss-dlr-targeted", make=_misled, sizes="four_classes", kind="dlr", targeted=True),
)
