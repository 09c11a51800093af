"""Adversarial batches: pure functions over one shared loop, the same as objects, and what they report."""

from fastadv.attacks.captured import Captured, CaptureError, capture
from fastadv.attacks.configured import APGD, BSS, FGSM, MIFGSM, PGD, SVGD, VAT, Attack
from fastadv.attacks.methods.apgd import apgd
from fastadv.attacks.methods.bss import bss
from fastadv.attacks.methods.bss_base_samples import bss_candidates, bss_targets
from fastadv.attacks.methods.fgsm import fgsm
from fastadv.attacks.methods.mi_fgsm import mi_fgsm
from fastadv.attacks.methods.pgd import pgd
from fastadv.attacks.methods.svgd import repulsion_ratio, svgd
from fastadv.attacks.methods.vat import vat
from fastadv.attacks.model.frozen import Frozen, freeze

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
