"""The methods: which samples they draw, which losses they combine."""

from fastadv.distill.aikd import AIKD
from fastadv.distill.base import KD, CrossEntropy
from fastadv.distill.data_free import DataFree
from fastadv.distill.features import Featured, Features
from fastadv.distill.method import AdversarialMethod, Batch, Method
from fastadv.distill.tald import TALD

__all__ = [
    "AIKD",
    "KD",
    "TALD",
    "AdversarialMethod",
    "Batch",
    "CrossEntropy",
    "DataFree",
    "Featured",
    "Features",
    "Method",
]
