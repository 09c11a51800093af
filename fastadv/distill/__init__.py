"""The methods: which samples they draw, which losses they combine."""

from fastadv.distill.base import KD, CrossEntropy
from fastadv.distill.features import Featured, Features
from fastadv.distill.method import AdversarialMethod, Batch, Method
from fastadv.distill.tald import TALD

__all__ = ["KD", "TALD", "AdversarialMethod", "Batch", "CrossEntropy", "Featured", "Features", "Method"]
