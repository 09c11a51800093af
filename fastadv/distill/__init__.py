"""The methods: which samples they draw, which losses they combine."""

from fastadv.distill.aikd import AIKD
from fastadv.distill.at import AT
from fastadv.distill.base import KD, BaseLoss, CrossEntropy
from fastadv.distill.crd import CRD
from fastadv.distill.data_free import DataFree
from fastadv.distill.dkd import DKD
from fastadv.distill.features import Featured, Features
from fastadv.distill.fitnet import FitNet
from fastadv.distill.ft import FT
from fastadv.distill.method import AdversarialMethod, Batch, Method
from fastadv.distill.rkd import RKD
from fastadv.distill.sp import SP
from fastadv.distill.tald import TALD
from fastadv.distill.triplet import TripletKD
from fastadv.distill.vid import VID
from fastadv.distill.weighted import WeightedLoss

__all__ = [
    "AIKD",
    "AT",
    "CRD",
    "DKD",
    "FT",
    "KD",
    "RKD",
    "SP",
    "TALD",
    "VID",
    "AdversarialMethod",
    "BaseLoss",
    "Batch",
    "CrossEntropy",
    "DataFree",
    "Featured",
    "Features",
    "FitNet",
    "Method",
    "TripletKD",
    "WeightedLoss",
]
