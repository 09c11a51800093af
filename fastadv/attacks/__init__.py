"""Adversarial batches: pure functions over one shared loop, the same as objects, and what they report."""

from fastadv.attacks.auto_gradient import apgd
from fastadv.attacks.base_samples import bss_candidates, bss_targets
from fastadv.attacks.boundary import bss
from fastadv.attacks.captured import Captured, CaptureError, capture
from fastadv.attacks.configured import APGD, BSS, FGSM, MIFGSM, PGD, SVGD, VAT, Attack
from fastadv.attacks.fast_gradient import fgsm
from fastadv.attacks.frozen import Frozen, freeze
from fastadv.attacks.momentum import mi_fgsm
from fastadv.attacks.particles import repulsion_ratio, svgd
from fastadv.attacks.projected_gradient import pgd
from fastadv.attacks.virtual import vat

__all__ = [
    "APGD",
    "BSS",
    "FGSM",
    "MIFGSM",
    "PGD",
    "SVGD",
    "VAT",
    "Attack",
    "CaptureError",
    "Captured",
    "Frozen",
    "apgd",
    "bss",
    "bss_candidates",
    "bss_targets",
    "capture",
    "fgsm",
    "freeze",
    "mi_fgsm",
    "pgd",
    "repulsion_ratio",
    "svgd",
    "vat",
]
