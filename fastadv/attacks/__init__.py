"""Adversarial batches: pure functions over one shared loop, the same as objects, and what they report.

An attack is a file of methods/, with its function and its object, and its import here: the tests that all attacks pass
and its name in `fastadv attack` follow.
"""

from fastadv.attacks.captured import Captured as Captured, CaptureError as CaptureError, capture as capture
from fastadv.attacks.configured import ATTACKS as ATTACKS, Attack as Attack
from fastadv.attacks.methods.apgd import APGD as APGD, apgd as apgd
from fastadv.attacks.methods.autoattack import (
    AutoAttack as AutoAttack,
    AutoAttackResult as AutoAttackResult,
    autoattack as autoattack,
)
from fastadv.attacks.methods.bss import BSS as BSS, bss as bss
from fastadv.attacks.methods.bss_base_samples import bss_candidates as bss_candidates, bss_targets as bss_targets
from fastadv.attacks.methods.fab import FAB as FAB, fab as fab
from fastadv.attacks.methods.fgsm import FGSM as FGSM, fgsm as fgsm
from fastadv.attacks.methods.mi_fgsm import MIFGSM as MIFGSM, mi_fgsm as mi_fgsm
from fastadv.attacks.methods.pgd import PGD as PGD, pgd as pgd
from fastadv.attacks.methods.square import SQUARE as SQUARE, square as square
from fastadv.attacks.methods.svgd import SVGD as SVGD, repulsion_ratio as repulsion_ratio, svgd as svgd
from fastadv.attacks.methods.vat import VAT as VAT, vat as vat
from fastadv.attacks.model.freeze import Frozen as Frozen, freeze as freeze
from fastadv.attacks.model.wrappers import Logits as Logits, Normalized as Normalized
