"""The schema of every registered op, and the hash by which a compiled library proves that it implements them.

This file imports nothing of PyTorch: ``setup.py`` reads it to compile the hash into the libraries.

Conventions: a per-sample argument is a float and an optional tensor [N] that replaces it; ``norm`` is 0 for linf, 1
for l2 and 2 for l1; an absent box is (-inf, inf). A loss returns itself and one gradient an input, already weighted and
scaled by ``scale``, in the accumulation precision; ``reduce`` sums it over the batch; a gradient not asked for is an
empty tensor.
"""

from __future__ import annotations

import hashlib

_BALL = "float eps, Tensor? eps_n, int norm, float low, float high"
_STEP = "float eps, Tensor? eps_n, float step_size, Tensor? step_size_n, int norm, float low, float high"
_ASCENT = f"{_STEP}, float l1_fraction"
_LOSS = "Tensor? weight, float scale, bool reduce"

SCHEMAS = {
    "project": f"(Tensor x, Tensor x0, {_BALL}, bool exact) -> Tensor",
    "random_start": f"(Tensor x0, {_BALL}, int seed, Tensor? seed_t, Tensor? sample_ids) -> Tensor",
    "pgd_step": f"(Tensor x, Tensor grad, Tensor x0, {_ASCENT}, bool exact) -> Tensor",
    "pgd_step_": f"(Tensor(a!) x, Tensor grad, Tensor x0, {_ASCENT}, bool exact) -> ()",
    "momentum_step": f"(Tensor x, Tensor grad, Tensor momentum, Tensor x0, {_ASCENT}, float decay) -> (Tensor, Tensor)",
    "bss_step": (
        "(Tensor x, Tensor grad, Tensor gap, Tensor active, float step_size, Tensor? step_size_n,"
        " float low, float high) -> Tensor"
    ),
    # bandwidth None is the median rule, score_scale None equal root mean squares; update: 0 sign, 1 l2, 2 raw.
    "svgd_step": (
        f"(Tensor particles, Tensor score, Tensor x0, {_STEP}, float? bandwidth, int update, float? score_scale)"
        " -> Tensor"
    ),
    "kl_distill": (
        f"(Tensor student, Tensor teacher, float temperature, {_LOSS}, bool student_grad, bool teacher_grad)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    "kd_loss": (
        f"(Tensor student, Tensor teacher, Tensor target, float temperature, float alpha, {_LOSS},"
        " bool student_grad, bool teacher_grad) -> (Tensor, Tensor, Tensor)"
    ),
    "js_distill": (
        f"(Tensor student, Tensor teacher, float temperature, {_LOSS}, bool student_grad, bool teacher_grad)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    "dkd_loss": (
        f"(Tensor student, Tensor teacher, Tensor target, float temperature, float alpha, float beta, {_LOSS},"
        " bool student_grad, bool teacher_grad) -> (Tensor, Tensor, Tensor)"
    ),
    "igdm_loss": (
        f"(Tensor student_plus, Tensor student_minus, Tensor teacher_plus, Tensor teacher_minus, {_LOSS},"
        " bool student_plus_grad, bool student_minus_grad, bool teacher_plus_grad, bool teacher_minus_grad)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "loss_matching": (
        f"(Tensor student, Tensor teacher, Tensor target, {_LOSS}, bool student_grad, bool teacher_grad)"
        " -> (Tensor, Tensor, Tensor)"
    ),
    "triplet_margin_loss": (
        "(Tensor anchor, Tensor positive, Tensor negative, float margin, Tensor? margin_n, float p, float eps,"
        f" bool swap, {_LOSS}, bool anchor_grad, bool positive_grad, bool negative_grad)"
        " -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "activation_boundary_loss": (
        f"(Tensor student, Tensor teacher, float margin, Tensor? margin_n, {_LOSS}, bool student_grad)"
        " -> (Tensor, Tensor)"
    ),
    # The student's gradient is of one number, not of one a sample.
    "rkd_loss": (
        "(Tensor student, Tensor teacher, float distance_weight, float angle_weight, bool student_grad)"
        " -> (Tensor, Tensor)"
    ),
    # kind: 0 cross-entropy against target, 1 KL divergence from reference, 2 DLR, 3 DLR towards target with the true
    # classes in reference, 4 CW.
    "attack_loss": (
        f"(Tensor logits, Tensor? target, Tensor? reference, int kind, {_LOSS}, bool grad) -> (Tensor, Tensor)"
    ),
    "mix": "(Tensor x, float lam, Tensor? lam_n, Tensor permutation) -> Tensor",
    "mix_backward": "(Tensor grad, float lam, Tensor? lam_n, Tensor permutation) -> Tensor",
    "scale_grad": "(Tensor grad, Tensor grad_output, ScalarType dtype) -> Tensor",
}


def digest() -> str:
    """SHA-256 of all schemas, in hexadecimal."""
    text = "\n".join(f"{name}{schema}" for name, schema in sorted(SCHEMAS.items()))
    return hashlib.sha256(text.encode()).hexdigest()
