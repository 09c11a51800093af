"""The methods by the names of recipes and the command line. A new one is a line of METHODS."""

from typing import NamedTuple

from fastadv import distill
from fastadv.distill import Method


class Known(NamedTuple):
    """A method's class, whose constructor's arguments are its options, and what tables call it."""

    kind: type[Method]
    label: str


METHODS: dict[str, Known] = {
    "ce": Known(distill.CrossEntropy, "plain (CE)"),
    "kd": Known(distill.KD, "KD"),
    "fitnet": Known(distill.FitNet, "FitNet"),
    "at": Known(distill.AT, "AT"),
    "sp": Known(distill.SP, "SP"),
    "vid": Known(distill.VID, "VID"),
    "ft": Known(distill.FT, "FT"),
    "crd": Known(distill.CRD, "CRD"),
    "rkd": Known(distill.RKD, "RKD"),
    "dkd": Known(distill.DKD, "DKD"),
    "triplet": Known(distill.TripletKD, "triplet KD"),
    "tald": Known(distill.TALD, "TALD"),
    "bss": Known(distill.BSS, "BSS"),
    "amkd": Known(distill.AMKD, "AMKD"),
    "pgd-at": Known(distill.PGDAT, "PGD-AT"),
    "trades": Known(distill.TRADES, "TRADES"),
    "ard": Known(distill.ARD, "ARD"),
    "rslad": Known(distill.RSLAD, "RSLAD"),
    "adaad": Known(distill.AdaAD, "AdaAD"),
    "iad": Known(distill.IAD, "IAD-I"),
    "iad-ii": Known(distill.IADII, "IAD-II"),
    "ada-iad": Known(distill.AdaIAD, "AdaIAD"),
    "igdm": Known(distill.IGDM, "IGDM"),
    "saad": Known(distill.SAAD, "SAAD"),
    "data-free": Known(distill.DataFree, "data-free"),
    "ai-kd": Known(distill.AIKD, "AI-KD"),
}
