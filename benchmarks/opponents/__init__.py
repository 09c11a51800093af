"""The formulas as people write them in PyTorch today, and the libraries that have them: what fastadv is measured against.

They are not the oracle of the tests, which is :mod:`fastadv.reference`.
"""
