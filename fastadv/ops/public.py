"""The public functions of the ops, by which :mod:`fastadv` shows them; to import them registers every op."""

from fastadv.ops.attack_loss import attack_loss, attack_loss_value_and_grad
from fastadv.ops.ball import project, random_start
from fastadv.ops.dispatch import backends, use_backend
from fastadv.ops.divergence import (
    dkd_loss,
    dkd_loss_value_and_grad,
    js_distill,
    js_distill_value_and_grad,
    kd_loss,
    kd_loss_value_and_grad,
    kl_distill,
    kl_distill_value_and_grad,
)
from fastadv.ops.hyperplane import project_hyperplane
from fastadv.ops.matching import (
    activation_boundary_loss,
    activation_boundary_loss_value_and_grad,
    igdm_loss,
    igdm_loss_value_and_grad,
    loss_matching,
    loss_matching_value_and_grad,
)
from fastadv.ops.metric import triplet_margin_loss, triplet_margin_loss_value_and_grad
from fastadv.ops.mix import mix
from fastadv.ops.rkd import rkd_loss, rkd_loss_value_and_grad
from fastadv.ops.square import square_propose
from fastadv.ops.step import bss_step, momentum_step, pgd_step, pgd_step_
from fastadv.ops.svgd import svgd_step

__all__ = [
    "activation_boundary_loss",
    "activation_boundary_loss_value_and_grad",
    "attack_loss",
    "attack_loss_value_and_grad",
    "backends",
    "bss_step",
    "dkd_loss",
    "dkd_loss_value_and_grad",
    "igdm_loss",
    "igdm_loss_value_and_grad",
    "js_distill",
    "js_distill_value_and_grad",
    "kd_loss",
    "kd_loss_value_and_grad",
    "kl_distill",
    "kl_distill_value_and_grad",
    "loss_matching",
    "loss_matching_value_and_grad",
    "mix",
    "momentum_step",
    "pgd_step",
    "pgd_step_",
    "project",
    "project_hyperplane",
    "random_start",
    "rkd_loss",
    "rkd_loss_value_and_grad",
    "square_propose",
    "svgd_step",
    "triplet_margin_loss",
    "triplet_margin_loss_value_and_grad",
    "use_backend",
]
