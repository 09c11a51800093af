"""The methods: which samples they draw, which losses they combine."""

from fastadv.distill.base import KD, CrossEntropy
from fastadv.distill.method import Method
from fastadv.distill.tald import TALD

__all__ = ["KD", "TALD", "CrossEntropy", "Method"]
