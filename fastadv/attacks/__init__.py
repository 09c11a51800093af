"""Adversarial batches: pure functions over one shared loop, and what they report."""

from fastadv.attacks.particles import repulsion_ratio, svgd
from fastadv.attacks.projected_gradient import pgd

__all__ = ["pgd", "repulsion_ratio", "svgd"]
