"""Adversarial batches: pure functions over one shared loop, the same as objects, and what they report.

An attack is a file of methods/, with its function and its object, and its import here: the tests that all attacks pass
and its name in `fastadv attack` follow.
"""

from fastadv.attacks.captured import Captured, CaptureError, capture
from fastadv.attacks.configured import ATTACKS, Attack
from fastadv.attacks.methods.apgd import APGD, apgd
from fastadv.attacks.methods.autoattack import AutoAttack, AutoAttackResult, autoattack
from fastadv.attacks.methods.bss import BSS, bss
from fastadv.attacks.methods.bss_base_samples import bss_candidates, bss_targets
from fastadv.attacks.methods.fab import FAB, fab
from fastadv.attacks.methods.fgsm import FGSM, fgsm
from fastadv.attacks.methods.mi_fgsm import MIFGSM, mi_fgsm
from fastadv.attacks.methods.pgd import PGD, pgd
from fastadv.attacks.methods.square import SQUARE, square
from fastadv.attacks.methods.svgd import SVGD, repulsion_ratio, svgd
from fastadv.attacks.methods.vat import VAT, vat
from fastadv.attacks.model.freeze import Frozen, freeze
from fastadv.attacks.model.wrappers import Logits, Normalized

__all__ = [
    "APGD",
    "ATTACKS",
    "BSS",
    "FAB",
    "FGSM",
    "MIFGSM",
    "PGD",
    "SQUARE",
    "SVGD",
    "VAT",
    "Attack",
    "AutoAttack",
    "AutoAttackResult",
    "CaptureError",
    "Captured",
    "Frozen",
    "Logits",
    "Normalized",
    "apgd",
    "autoattack",
    "bss",
    "bss_candidates",
    "bss_targets",
    "capture",
    "fab",
    "fgsm",
    "freeze",
    "mi_fgsm",
    "pgd",
    "repulsion_ratio",
    "square",
    "svgd",
    "vat",
]
