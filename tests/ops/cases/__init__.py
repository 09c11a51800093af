"""The cases that every registered op is tested with, one file a family."""

from tests.ops.cases import (
    attack_loss,
    ball,
    divergence,
    hyperplane,
    loss,
    matching,
    metric,
    mix,
    rkd,
    square,
    step,
    svgd,
)
from tests.ops.cases.case import SIZES, Case, Draw, Size, Tensors, in_float64
from tests.ops.cases.libraries import FUSED, ORACLE

__all__ = ["CASES", "FUSED", "ORACLE", "SIZES", "Case", "Draw", "Size", "Tensors", "in_float64"]

_FAMILIES = (ball, hyperplane, square, step, svgd, mix, divergence, matching, metric, rkd, attack_loss, loss)
CASES: tuple[Case, ...] = tuple(case for family in _FAMILIES for case in family.CASES)
