"""The methods of distillation and of adversarial training: the samples they draw, the losses they combine."""

from fastadv.distill.adaad import AdaAD
from fastadv.distill.adversarial_training import PGDAT, TRADES
from fastadv.distill.aikd import AIKD
from fastadv.distill.amkd import AMKD
from fastadv.distill.ard import ARD
from fastadv.distill.at import AT
from fastadv.distill.bss import BSS
from fastadv.distill.crd import CRD
from fastadv.distill.cross_entropy import CrossEntropy
from fastadv.distill.data_free import DataFree
from fastadv.distill.distiller import Distiller
from fastadv.distill.dkd import DKD
from fastadv.distill.fitnet import FitNet
from fastadv.distill.ft import FT
from fastadv.distill.hooked import Hooked
from fastadv.distill.iad import IAD, IADII, AdaIAD
from fastadv.distill.igdm import IGDM
from fastadv.distill.kd import KD
from fastadv.distill.method import AdversarialMethod, Batch, Method
from fastadv.distill.parts.base_loss import BaseLoss
from fastadv.distill.parts.features import Featured, Features
from fastadv.distill.parts.robust import RobustMethod
from fastadv.distill.parts.weighted import WeightedLoss
from fastadv.distill.rkd import RKD
from fastadv.distill.rslad import RSLAD
from fastadv.distill.saad import SAAD
from fastadv.distill.sp import SP
from fastadv.distill.tald import TALD
from fastadv.distill.triplet import TripletKD
from fastadv.distill.vid import VID

__all__ = [
    "AIKD",
    "AMKD",
    "ARD",
    "AT",
    "BSS",
    "CRD",
    "DKD",
    "FT",
    "IAD",
    "IADII",
    "IGDM",
    "KD",
    "PGDAT",
    "RKD",
    "RSLAD",
    "SAAD",
    "SP",
    "TALD",
    "TRADES",
    "VID",
    "AdaAD",
    "AdaIAD",
    "AdversarialMethod",
    "BaseLoss",
    "Batch",
    "CrossEntropy",
    "DataFree",
    "Distiller",
    "Featured",
    "Features",
    "FitNet",
    "Hooked",
    "Method",
    "RobustMethod",
    "TripletKD",
    "WeightedLoss",
]
