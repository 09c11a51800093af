"""The methods of distillation and of adversarial training: the samples they draw, the losses they combine."""

from fastadv.distill.adaad import AdaAD as AdaAD
from fastadv.distill.adversarial_training import PGDAT as PGDAT, TRADES as TRADES
from fastadv.distill.aikd import AIKD as AIKD
from fastadv.distill.amkd import AMKD as AMKD
from fastadv.distill.ard import ARD as ARD
from fastadv.distill.at import AT as AT
from fastadv.distill.bss import BSS as BSS
from fastadv.distill.crd import CRD as CRD
from fastadv.distill.cross_entropy import CrossEntropy as CrossEntropy
from fastadv.distill.data_free import DataFree as DataFree
from fastadv.distill.distiller import Distiller as Distiller, MicroBatch as MicroBatch
from fastadv.distill.dkd import DKD as DKD
from fastadv.distill.fitnet import FitNet as FitNet
from fastadv.distill.ft import FT as FT
from fastadv.distill.hooked import Hooked as Hooked
from fastadv.distill.iad import IAD as IAD, IADII as IADII, AdaIAD as AdaIAD
from fastadv.distill.igdm import IGDM as IGDM
from fastadv.distill.kd import KD as KD
from fastadv.distill.method import AdversarialMethod as AdversarialMethod, Batch as Batch, Method as Method
from fastadv.distill.parts.base_loss import BaseLoss as BaseLoss
from fastadv.distill.parts.features import Featured as Featured, Features as Features
from fastadv.distill.parts.robust import RobustMethod as RobustMethod
from fastadv.distill.parts.weighted import WeightedLoss as WeightedLoss
from fastadv.distill.rkd import RKD as RKD
from fastadv.distill.rslad import RSLAD as RSLAD
from fastadv.distill.saad import SAAD as SAAD
from fastadv.distill.sp import SP as SP
from fastadv.distill.tald import TALD as TALD
from fastadv.distill.triplet import TripletKD as TripletKD
from fastadv.distill.vid import VID as VID
