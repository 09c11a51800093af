"""Baselines that fastadv is measured against: the formulas as people write them in PyTorch today, and the libraries.

The formulas are not the oracle of the tests, which is :mod:`fastadv.reference`.
"""
