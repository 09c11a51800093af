"""Distillation of decision boundaries with a distance from the other side: AMKD."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fastadv.distill.bss import BSS, Boundary
from fastadv.distill.method import Batch, Network, Terms
from fastadv.distill.parts.building import example_features
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.teacher import required
from fastadv.numerics import accumulate
from fastadv.ops import checks
from fastadv.ops.metric import triplet_margin_loss

_TRIPLETS = {name: name for name in ("teacher", "clean", "same-class")}

# Margin and weight of the triplets: for embeddings of unit length, and for logits, where they are those of Oki et al.
_EMBEDDINGS = {"features": (0.5, 1.0), "logits": (5.0, 2.0)}


class AMKD(BSS):
    """BSS, and a triplet loss that keeps each boundary sample from the class on the other side. A reconstruction.

    ``L = L_BSS + triplet_weight mean max(0, |a - p|_2 - |a - n|_2 + margin)``, the mean over the boundary samples x' of
    :class:`BSS`; there are no triplets once there are no boundary samples.

    The abstract is all that could be read of the paper: adversarial samples close to the boundary of two classes, and a
    triplet loss on the distance from samples of the negative class. Embeddings, triplets, margins and weights are this
    library's choice. An embedding e is what the last linear layer reads, scaled to unit length, or the logits:

    ==============  ============  ==================================================================
    ``triplet``     anchor a      positive p
    ==============  ============  ==================================================================
    "teacher"       ``e_T(x')``   ``e_S(x')``
    "clean"         ``e_S(x)``    ``e_S(x')``
    "same-class"    ``e_S(x')``   ``e_S`` of the clean image of its class in the batch farthest away
    ==============  ============  ==================================================================

    The negative n is ``e_S`` of the clean image of the class that x' was moved to which lies nearest to the anchor, or
    where the batch has none, of any class but its own. Where the two networks' features differ in length, ``build``
    makes a linear layer for the teacher's, which is trained with the student.

    Args:
        embedding: "features", for which both networks need ``with_features``, or "logits".
        triplet: "teacher", "clean" or "same-class".
        margin: None is 0.5 for features, 5 for logits.
        triplet_weight: None is 1 for features, 2 for logits.
        temperature, kd_start, kd_end, bss_weight, bss_end, attack_size, steps, step_size, stop_early: see :class:`BSS`.

    Terms: those of BSS, and "triplet" before its weight.

    Raises:
        TypeError: an argument is of the wrong type; a network has no features and they are asked for.
        ValueError: an argument is out of range or an unknown name; features differ in length and nothing was built.

    Source: the abstract of "Adversarial metric knowledge distillation"; margin and weight on logits are those of Oki,
    Abe, Miyao, Kurita, "Triplet loss for knowledge distillation", IJCNN 2020.
    """

    def __init__(
        self,
        embedding: str = "features",
        triplet: str = "teacher",
        *,
        margin: float | None = None,
        triplet_weight: float | None = None,
        temperature: float = 3.0,
        kd_start: float = 4.0,
        kd_end: float = 1.0,
        bss_weight: float = 2.0,
        bss_end: float = 0.75,
        attack_size: int = 64,
        steps: int = 10,
        step_size: float = 0.06,
        stop_early: bool | None = None,
    ) -> None:
        super().__init__(
            temperature,
            kd_start=kd_start,
            kd_end=kd_end,
            bss_weight=bss_weight,
            bss_end=bss_end,
            attack_size=attack_size,
            steps=steps,
            step_size=step_size,
            stop_early=stop_early,
        )
        usual_margin, usual_weight = checks.choice("embedding", embedding, _EMBEDDINGS)
        self.embedding = embedding
        self.triplet = checks.choice("triplet", triplet, _TRIPLETS)
        self.margin = checks.positive("margin", usual_margin if margin is None else margin)
        weight = usual_weight if triplet_weight is None else triplet_weight
        self.triplet_weight = checks.not_negative("triplet_weight", weight)
        self.needs_features = embedding == "features"
        self.projector: nn.Module = nn.Identity()

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        self.projector = nn.Identity()
        if not self.needs_features:
            return
        try:
            shown = example_features(self, student, teacher, x)
        except TypeError as error:
            raise TypeError(f"{error}; or AMKD(embedding='logits') compares logits") from None
        ours, theirs = map(self._vectors, shown)
        if self.triplet == "teacher" and ours.shape[1] != theirs.shape[1]:
            self.projector = nn.Linear(theirs.shape[1], ours.shape[1], device=ours.device, dtype=ours.dtype)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        clean, boundary, terms = self.distil(student, required(self, teacher), batch)
        if boundary is None:
            return {**terms, "triplet": torch.zeros_like(terms["bss"])}
        triplet = self._triplet_loss(clean, boundary, batch.y)
        return {**terms, "loss": terms["loss"] + self.triplet_weight * triplet, "triplet": triplet.detach()}

    def _triplet_loss(self, clean: Features, boundary: Boundary, y: Tensor) -> Tensor:
        at_clean, at_boundary = self._embedding(clean), self._embedding(boundary.student)
        classes = y[boundary.places][:, None]
        if self.triplet == "teacher":
            anchor, positive = self._projected(boundary.teacher, at_boundary), at_boundary
        elif self.triplet == "clean":
            anchor, positive = at_clean[boundary.places], at_boundary
        else:
            anchor = at_boundary
            positive = at_clean[_distances(anchor, at_clean, y == classes, -math.inf).argmax(1)]
        of_target, of_others = y == boundary.target[:, None], y != classes
        candidates = torch.where(of_target.any(1, keepdim=True), of_target, of_others)
        negative = at_clean[_distances(anchor, at_clean, candidates, math.inf).argmin(1)]
        losses = triplet_margin_loss(anchor, positive, negative, margin=self.margin, reduction="none")
        return boundary.mean(losses * candidates.any(1))

    def _vectors(self, shown: Features) -> Tensor:
        return accumulate(shown.embedding if self.needs_features else shown.logits)

    def _embedding(self, shown: Features) -> Tensor:
        return self._scaled(self._vectors(shown))

    def _scaled(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=1) if self.needs_features else vectors

    def _projected(self, teacher: Features, ours: Tensor) -> Tensor:
        """Return the teacher's embeddings, brought to the length of the student's."""
        theirs = self._vectors(teacher)
        projected = accumulate(self.projector(theirs))
        if projected.shape[1] != ours.shape[1]:
            raise ValueError(
                f"student and teacher have features of {ours.shape[1]} and {theirs.shape[1]} numbers, which build() "
                "joins by a linear layer; it has not been called with these networks"
            )
        return self._scaled(projected)

    def extra_repr(self) -> str:
        return (
            f"embedding={self.embedding!r}, triplet={self.triplet!r}, margin={self.margin}, "
            f"triplet_weight={self.triplet_weight}, {super().extra_repr()}"
        )


def _distances(anchor: Tensor, images: Tensor, among: Tensor, elsewhere: float) -> Tensor:
    """Return distances [M, N] between embeddings, without gradient; ``elsewhere`` where ``among`` [M, N] is False."""
    with torch.no_grad():
        return torch.cdist(anchor, images).masked_fill(~among, elsewhere)
