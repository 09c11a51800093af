"""The methods: which samples they draw, which losses they combine."""

from fastadv.distill.adaad import AdaAD
from fastadv.distill.adversarial_training import PGDAT, TRADES
from fastadv.distill.amkd import AMKD
from fastadv.distill.ard import ARD
from fastadv.distill.base import KD, CrossEntropy
from fastadv.distill.bss import BSS
from fastadv.distill.features import Featured, Features
from fastadv.distill.iad import IAD, IADII, AdaIAD
from fastadv.distill.igdm import IGDM
from fastadv.distill.method import AdversarialMethod, Batch, Method
from fastadv.distill.robust import RobustMethod
from fastadv.distill.rslad import RSLAD
from fastadv.distill.tald import TALD

__all__ = [
    "AMKD",
    "ARD",
    "BSS",
    "IAD",
    "IADII",
    "IGDM",
    "KD",
    "PGDAT",
    "RSLAD",
    "TALD",
    "TRADES",
    "AdaAD",
    "AdaIAD",
    "AdversarialMethod",
    "Batch",
    "CrossEntropy",
    "Featured",
    "Features",
    "Method",
    "RobustMethod",
]
