"""The families that cases are shown in: what is written about, pictured and tabled together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """Cases of some public functions.

    Attributes:
        key: stands in the names of files.
        title: what people call them.
        about: what a case is, in a sentence.
        ops: the functions, or where they end in a dot the beginnings of their names.
    """

    key: str
    title: str
    about: str
    ops: tuple[str, ...]

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if self.has(row["op"])]

    def has(self, op: str) -> bool:
        return op in self.ops or op.startswith(tuple(name for name in self.ops if name.endswith(".")))


FAMILIES = (
    Family(
        "steps",
        "Steps and projections",
        "One step of an attack on a batch of images; no network is in it.",
        (
            *("project", "random_start", "pgd_step", "momentum_step", "bss_step", "mix"),
            *("project_hyperplane", "square_propose"),
        ),
    ),
    Family(
        "particles", "Particles", "One SVGD step, images x particles x pixels; no network is in it.", ("svgd_step",)
    ),
    Family(
        "logits",
        "Losses on logits",
        "A loss of batch x classes, with the backward pass of autograd or as value and gradient for a loop.",
        ("kl_distill", "js_distill", "kd_loss", "dkd_loss", "igdm_loss", "loss_matching", "attack_loss"),
    ),
    Family(
        "features",
        "Losses on features",
        "A loss of batch x width, or of a layer's activations.",
        ("triplet_margin_loss", "rkd_loss", "activation_boundary_loss"),
    ),
    Family(
        "attacks",
        "Whole attacks",
        "All steps on four layers of 24,000 parameters, so that what surrounds a network can be seen; in a larger one "
        "the network is nearly all of the time.",
        ("attacks.",),
    ),
    Family(
        "training",
        "Training steps",
        "Forward and backward pass of a method's student, its attack included, against the step as people write it. "
        "Nearly all of it is the networks, which are the same in both.",
        ("distill.",),
    ),
)
