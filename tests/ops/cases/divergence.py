"""kl_distill, kd_loss, js_distill and dkd_loss."""

from __future__ import annotations

from typing import Any

from tests.ops.cases.case import Case, calling
from tests.ops.cases.draws import Make, labelled, networks, with_weight


def _loss(name: str, *, make: Make, sizes: str = "logits", **keywords: Any) -> Case:
    call = calling(name.partition("-")[0], "student", "teacher", **keywords)
    return Case(name=name, kind="loss", sizes=sizes, make=make, call=call, differentiable=("student", "teacher"))


CASES = (
    _loss("kl_distill", make=networks, temperature=4.0),
    _loss("kl_distill-none", make=with_weight(networks), reduction="none"),
    _loss("kl_distill-mean", make=with_weight(networks), reduction="mean"),
    _loss("kd_loss", make=labelled),
    _loss("kd_loss-none", make=with_weight(labelled), temperature=1.5, alpha=0.3, reduction="none"),
    _loss("js_distill", make=networks, temperature=3.0),
    _loss("js_distill-mean", make=with_weight(networks), reduction="mean"),
    _loss("dkd_loss", make=labelled, sizes="two_classes"),
    _loss("dkd_loss-none", make=with_weight(labelled), sizes="two_classes", alpha=2.0, beta=0.5, reduction="none"),
)
