"""The schema of every registered op, and the hash by which a compiled library proves that it implements them.

This file imports nothing of PyTorch: ``setup.py`` reads it to compile the hash into the libraries.

Conventions: ``norm`` is 0 for linf, 1 for l2 and 2 for l1; an absent box is (-inf, inf). A per-sample argument is a
float and an optional tensor [N] that replaces it. A loss returns itself and one gradient an input, already weighted and
scaled by ``scale``, in the accumulation precision; ``reduce`` sums it over the batch; a gradient not asked for is None.

Order: first what every call gives, then the numbers that mostly have the default of the public function, then what
optional tensors there are. An argument that is left out costs nothing, one that is passed from Python 0.1 to 0.2 us.
"""

from __future__ import annotations

import hashlib

_BOX = "int norm=0, float low=0.0, float high=1.0"
_STEP = f"float eps, float step_size, {_BOX}"
_PER_SAMPLE = "Tensor? eps_n=None, Tensor? step_size_n=None"
_LOSS = "float scale, bool reduce"
_PAIR = "bool student_grad=False, bool teacher_grad=False, Tensor? weight=None"

SCHEMAS = {
    "project": f"(Tensor x, Tensor x0, float eps, {_BOX}, bool exact=True, Tensor? eps_n=None) -> Tensor",
    "random_start": (
        f"(Tensor x0, float eps, {_BOX}, int seed=0, Tensor? eps_n=None, Tensor? seed_t=None, Tensor? sample_ids=None)"
        " -> Tensor"
    ),
    "project_hyperplane": f"(Tensor x, Tensor normal, Tensor offset, {_BOX}) -> Tensor",
    # level: whose window each sample gets, an index into sides [L] and bumps [L, S, S].
    "square_propose": (
        f"(Tensor x, Tensor x0, Tensor query, Tensor level, Tensor sides, float eps, {_BOX}, int seed=0,"
        " Tensor? bumps=None, Tensor? eps_n=None, Tensor? seed_t=None, Tensor? sample_ids=None) -> Tensor"
    ),
    "pgd_step": (
        f"(Tensor x, Tensor grad, Tensor x0, {_STEP}, float l1_fraction=0.05, bool exact=True, {_PER_SAMPLE}) -> Tensor"
    ),
    "pgd_step_": (
        f"(Tensor(a!) x, Tensor grad, Tensor x0, {_STEP}, float l1_fraction=0.05, bool exact=True, {_PER_SAMPLE}) -> ()"
    ),
    "momentum_step": (
        f"(Tensor x, Tensor grad, Tensor momentum, Tensor x0, {_STEP}, float l1_fraction=0.05, float decay=1.0,"
        f" {_PER_SAMPLE}) -> (Tensor, Tensor)"
    ),
    "bss_step": (
        "(Tensor x, Tensor grad, Tensor gap, Tensor active, float step_size, float low=0.0, float high=1.0,"
        " Tensor? step_size_n=None) -> Tensor"
    ),
    # bandwidth None is the median rule, score_scale None equal root mean squares; update: 0 sign, 1 l2, 2 raw.
    "svgd_step": (
        f"(Tensor particles, Tensor score, Tensor x0, {_STEP}, float? bandwidth=None, int update=0,"
        f" float? score_scale=1.0, {_PER_SAMPLE}) -> Tensor"
    ),
    "kl_distill": (
        f"(Tensor student, Tensor teacher, float temperature, {_LOSS}, {_PAIR}) -> (Tensor, Tensor?, Tensor?)"
    ),
    "kd_loss": (
        f"(Tensor student, Tensor teacher, Tensor target, float temperature, float alpha, {_LOSS}, {_PAIR})"
        " -> (Tensor, Tensor?, Tensor?)"
    ),
    "js_distill": (
        f"(Tensor student, Tensor teacher, float temperature, {_LOSS}, {_PAIR}) -> (Tensor, Tensor?, Tensor?)"
    ),
    "dkd_loss": (
        f"(Tensor student, Tensor teacher, Tensor target, float temperature, float alpha, float beta, {_LOSS}, {_PAIR})"
        " -> (Tensor, Tensor?, Tensor?)"
    ),
    "igdm_loss": (
        f"(Tensor student_plus, Tensor student_minus, Tensor teacher_plus, Tensor teacher_minus, {_LOSS},"
        " bool student_plus_grad=False, bool student_minus_grad=False, bool teacher_plus_grad=False,"
        " bool teacher_minus_grad=False, Tensor? weight=None) -> (Tensor, Tensor?, Tensor?, Tensor?, Tensor?)"
    ),
    "loss_matching": f"(Tensor student, Tensor teacher, Tensor target, {_LOSS}, {_PAIR}) -> (Tensor, Tensor?, Tensor?)",
    "triplet_margin_loss": (
        f"(Tensor anchor, Tensor positive, Tensor negative, float margin, float p, float eps, bool swap, {_LOSS},"
        " bool anchor_grad=False, bool positive_grad=False, bool negative_grad=False, Tensor? margin_n=None,"
        " Tensor? weight=None) -> (Tensor, Tensor?, Tensor?, Tensor?)"
    ),
    "activation_boundary_loss": (
        f"(Tensor student, Tensor teacher, float margin, {_LOSS}, bool student_grad=False, Tensor? margin_n=None,"
        " Tensor? weight=None) -> (Tensor, Tensor?)"
    ),
    # The student's gradient is of one number, not of one a sample.
    "rkd_loss": (
        "(Tensor student, Tensor teacher, float distance_weight, float angle_weight, bool student_grad=False)"
        " -> (Tensor, Tensor?)"
    ),
    # kind: 0 cross-entropy against target, 1 KL divergence from reference, 2 DLR, 3 DLR towards target with the true
    # classes in reference, 4 CW, 5 log-odds of the other classes against target.
    "attack_loss": (
        f"(Tensor logits, Tensor? target, int kind, {_LOSS}, bool grad=False, Tensor? reference=None,"
        " Tensor? weight=None) -> (Tensor, Tensor?)"
    ),
    "mix": "(Tensor x, float lam, Tensor permutation, Tensor? lam_n=None) -> Tensor",
    "mix_backward": "(Tensor grad, float lam, Tensor permutation, Tensor? lam_n=None) -> Tensor",
    "scale_grad": "(Tensor grad, Tensor grad_output, ScalarType dtype) -> Tensor",
}


def digest() -> str:
    """SHA-256 of all schemas, in hexadecimal."""
    text = "\n".join(f"{name}{schema}" for name, schema in sorted(SCHEMAS.items()))
    return hashlib.sha256(text.encode()).hexdigest()
