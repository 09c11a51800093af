"""Reasons why a row is far from its floor or close to ``torch.compile``, by the family of its case; of CPUs.

A family is the beginning of a case's name without its sizes: ``kl_distill 64x100 bfloat16 forward + backward`` belongs
to ``kl_distill``, ``kl_distill bfloat16`` and ``kl_distill bfloat16 forward + backward``. The first reason that fits
holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

MIB = 2**20
# A row with less of its floor's speed, or no further ahead of the compiled formula, needs a reason.
FAR_FROM_FLOOR, CLOSE_TO_COMPILED = 0.5, 1.3


class Reason(NamedTuple):
    """Of the rows of some families that move more than ``above`` and at most ``up_to`` bytes."""

    families: tuple[str, ...]
    text: str
    above: float = 0
    up_to: float = float("inf")


CALL = "the cost of a call, several times that of a bare copy: Python, the checks, the dispatcher"
NEW_MEMORY = (
    "the result is new memory at each call, where the floor's copy fills a tensor that is there; on one thread, "
    "12,289 page faults a call of 4096x3x32x32 (without them, malloc being told to keep memory, a sixth of the time) "
    "and 0.7 of the time of 16x3x224x224 in place"
)
LOGITS = ("kl_distill", "js_distill", "kd_loss", "dkd_loss", "igdm_loss", "loss_matching")
BACKWARD = tuple(f"{loss}{half} forward + backward" for loss in LOGITS for half in ("", " bfloat16"))

FLOOR = (
    Reason(
        tuple(f"{step} bfloat16" for step in ("pgd_step linf", "pgd_step l2", "momentum_step linf", "bss_step", "mix")),
        "half the bytes, but the arithmetic of float32, and a rounding towards the clean image",
    ),
    Reason(("pgd_step linf", "bss_step", "mix"), CALL, up_to=2 * MIB),
    Reason(("mix",), "the cost of a call, and a second image read from elsewhere in the batch", up_to=32 * MIB),
    Reason(("pgd_step linf", "bss_step", "mix"), NEW_MEMORY, above=32 * MIB),
    Reason(
        ("pgd_step l2",),
        "a sample is read again for the norm of the gradient, for the distances that tell whether ball and box bind, "
        "and for the result, which is rounded towards the centre so that it never leaves the ball",
    ),
    Reason(
        ("pgd_step l1",),
        "the largest coordinates are selected, then the threshold of ball and box is searched for, a pass over the "
        "sample each time",
    ),
    Reason(("project l2",), "a sample is read for its distance, and again for the result"),
    Reason(
        ("project_hyperplane",),
        "how far to go until the plane is reached is searched for by Newton steps, a pass over the sample each",
    ),
    Reason(
        ("square_propose",),
        "the image is copied, then its windows are read, added up and written by rows of a few pixels, not by vectors",
    ),
    Reason(("random_start",), "arithmetic: ten rounds of Philox for four pixels"),
    Reason(("momentum_step",), "the mean of the gradient is taken before the step can begin, one more pass"),
    Reason(
        ("svgd_step",),
        "n x n kernels are multiplied with the particles of an image: the operations a pixel grow with n where the "
        "bytes do not",
    ),
    Reason(BACKWARD, "the way to the kernel and back, as the row of a single pair of logits shows", up_to=MIB / 2),
    Reason((*LOGITS, "attack_loss"), CALL + "; then exponentials, or several passes over a row", up_to=MIB / 2),
    Reason(
        (*LOGITS, "attack_loss"),
        "arithmetic, two or three exponentials a class; on one thread, at 64x32000, PyTorch's own softmax of one of "
        "the logits takes 0.6 of the time, and four times a copy of them",
    ),
    Reason(
        ("triplet_margin_loss forward + backward",),
        "three leaves, each of which PyTorch's engine visits: without autograd it takes a third of the time",
    ),
    Reason(("triplet_margin_loss",), CALL),
    Reason(("rkd_loss",), "arithmetic: B^3 angles of a batch of B rows, whose bytes are next to nothing"),
    Reason(
        ("activation_boundary fwd + bwd",),
        "the gradient is new memory at each call: on one thread, 2,176 page faults",
    ),
)

COMPILED = (
    Reason(
        ("pgd_step linf bfloat16", "pgd_step l2 bfloat16", "momentum_step linf bfloat16"),
        "the compiled loop computes in float32 too, in as many passes; it does not round towards the clean image",
    ),
    Reason(
        ("pgd_step linf",),
        "memory: the compiled loop is fused too, moves the same bytes and makes a new result too",
        above=16 * MIB,
    ),
    Reason(("project l2", "momentum_step"), "the compiled formula makes the same two passes"),
    Reason(
        ("attack",), "the opponent's network is compiled with its loop, ours runs as it is; ours compiles whole too"
    ),
)


def of(row: Mapping[str, Any], *, on_gpu: bool = False) -> dict[str, str | None]:
    """Reasons why a row is far from its floor ("floor"), why it is close to the compiled formula ("torch.compile").

    None for a reason that nobody has given; nothing for what needs none.
    """
    share, compiled = row.get("share_of_floor"), row["ratio_to_fused"].get("compiled")
    known = {}
    if share is not None and share < FAR_FROM_FLOOR:
        known["floor"] = FLOOR
    if compiled and compiled["median"] < CLOSE_TO_COMPILED:
        known["torch.compile"] = COMPILED
    return {what: None if on_gpu else _first(reasons, row) for what, reasons in known.items()}


def family(case: str) -> str:
    """A case's name without its sizes."""
    return re.sub(r" \d+(x\d+)+", "", case)


def _first(reasons: Iterable[Reason], row: Mapping[str, Any]) -> str | None:
    for reason in reasons:
        if family(row["case"]).startswith(reason.families) and reason.above < row.get("bytes", 1) <= reason.up_to:
            return reason.text
    return None
