"""The plain step of every method: its opponent's losses on the modules and random numbers that the method has itself.

What a method draws in its step, a plain step is given: it is spared the drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases.inputs import EPS
from benchmarks.cases.sides import CLASSES, Side
from benchmarks.opponents import data_free, distillation, features, robust, sampling
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.distill import Features
from fastadv.distill.data_free import _GENERATOR, _SHARES, _STUDENT
from fastadv.distill.parts import noise
from fastadv.distill.parts.robust import NEAR

Losses = Callable[[], Iterator[Tensor]]
SAME = "the same torch code on both sides: no fused op is in it"
SAME_DISTANCE = "the distance is the same torch code on both sides; the fused op is in cross-entropy and KD"
CLEAN_TOO = "the published step also sees clean images, whose term has weight zero; ours leaves them out"
ENDS_EARLY = (
    "both attacks end when no image is left to move, here after four of ten steps, which ours does with stop_early=True"
)
RECONSTRUCTED = "published without code: both sides are reconstructions"


@dataclass(frozen=True)
class Plain:
    """The opponent of a method.

    Attributes:
        losses: makes the call that gives the loss of the student and, where there is one, of its adversary.
        note: what the row's reader must know of the two sides.
        attacks: whether signs of gradients decide where images move.
    """

    losses: Callable[[Side], Losses]
    note: str = ""
    attacks: bool = False


def _one(make: Callable[[Side], Callable[[], Tensor]]) -> Callable[[Side], Losses]:
    """Of a method without an adversary."""

    def losses_of(side: Side) -> Losses:
        loss = make(side)

        def step() -> Iterator[Tensor]:
            yield loss()

        return step

    return losses_of


def _ce(side: Side) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(side.student(side.batch.x), side.batch.y)


def _on_logits(loss: Callable[..., Tensor]) -> Callable[[Side], Losses]:
    return _one(lambda side: lambda: loss(*side.pair, side.batch.x, side.batch.y))


def _on_features(
    beta: float, distance: Callable[[Any, Features, Features], Tensor], note: str = SAME_DISTANCE
) -> Plain:
    """RepDistiller's sum with ``distance`` of the method's modules and what student and teacher show."""

    def make(side: Side) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            of_student, of_teacher = distillation.see(*side.pair, side.batch.x)
            apart = distance(side.method, of_student, of_teacher)
            return distillation.weighted(of_student.logits, of_teacher.logits, side.batch.y, apart, beta=beta)

        return loss

    return Plain(_one(make), note)


def _fitnet(method: Any, student: Features, teacher: Features) -> Tensor:
    return F.mse_loss(method.regressor(student.maps[2]), teacher.maps[2])


def _at(method: Any, student: Features, teacher: Features) -> Tensor:
    return features.attention_loss(zip(student.maps[1:], teacher.maps[1:], strict=True))


def _sp(method: Any, student: Features, teacher: Features) -> Tensor:
    return features.similarity_loss(student.maps[-1], teacher.maps[-1])


def _vid(method: Any, student: Features, teacher: Features) -> Tensor:
    maps = zip(student.maps[1:], teacher.maps[1:], method.likelihoods, strict=True)
    return torch.stack([features.variational_loss(s, t, each.mean, each.scale) for s, t, each in maps]).sum()


def _ft(method: Any, student: Features, teacher: Features) -> Tensor:
    with torch.no_grad():
        factor = method.paraphraser(teacher.maps[-1])
    return features.factor_loss(method.translator(student.maps[-1]), factor)


def _rkd(method: Any, student: Features, teacher: Features) -> Tensor:
    return features.rkd_loss(student.embedding, teacher.embedding, 25.0, 50.0)


def _crd(side: Side) -> Callable[[], Tensor]:
    contrast, batch = side.method.contrast, side.batch
    assert batch.index is not None
    places = torch.cat((batch.index[:, None], contrast._draw(batch.y, batch.index, batch.seed)), dim=1)
    of_student, of_teacher = (
        features.ContrastiveMemory(memory.rows.clone(), memory.temperature, memory.momentum)
        for memory in (contrast.student, contrast.teacher)
    )

    def loss() -> Tensor:
        student, teacher = distillation.see(*side.pair, batch.x)
        anchor = F.normalize(contrast.student.linear(student.embedding))
        other = F.normalize(contrast.teacher.linear(teacher.embedding))
        told = of_teacher.contrast(anchor, places) + of_student.contrast(other, places)
        of_student.remember(anchor, batch.index)
        of_teacher.remember(other, batch.index)
        return distillation.weighted(student.logits, teacher.logits, batch.y, told, beta=0.8)

    return loss


def _triplet(side: Side) -> Callable[[], Tensor]:
    y = side.batch.y
    drawn = noise.uniform(len(y), len(y), seed=side.batch.seed, stream=noise.APART, like=side.batch.x)
    negatives = drawn.masked_fill(y[:, None] == y, -float("inf")).argmax(1)
    return lambda: distillation.triplet(*side.pair, side.batch.x, y, negatives)


def _ai_kd(side: Side) -> Losses:
    method, batch = side.method, side.batch

    def step() -> Iterator[Tensor]:
        yield from distillation.ai_kd(*side.pair, method.previous, method.adversary, batch.x, batch.y, batch.progress)

    return step


def _tald(side: Side) -> Callable[[], Tensor]:
    x, y = side.batch.x, side.batch.y
    start = side.start(EPS, side.method.particles).unflatten(0, (len(x), -1))
    return lambda: sampling.tald(*side.pair, x, y, sampling.particles(side.teacher, x, y, start))


def _at_boundaries(loss: Callable[..., Tensor], side: Side) -> Callable[[], Tensor]:
    batch = side.batch
    half = batch.x.new_full((len(batch.x), CLASSES), 0.5)
    uniform = Ball(eps=0.5, bounds=None).random_rows(half, 1, Noise(batch.seed, batch.index))
    gumbel = -(-uniform.clamp(2.0**-25, 1 - 2.0**-24).log()).log()
    return lambda: loss(*side.pair, batch.x, batch.y, gumbel, batch.progress)


def _robust(radius: float, loss: Callable[[Side, Tensor], Tensor], note: str = "") -> Plain:
    """``loss`` of a side and where its attack starts, drawn from the ball of that radius."""

    def make(side: Side) -> Callable[[], Tensor]:
        return partial(loss, side, side.start(radius))

    return Plain(_one(make), note, attacks=True)


def _pgd_at(side: Side, start: Tensor) -> Tensor:
    return robust.pgd_at(side.student, side.batch.x, side.batch.y, start)


def _trades(side: Side, start: Tensor) -> Tensor:
    return robust.trades(side.student, side.batch.x, side.batch.y, start)


def _ard(side: Side, start: Tensor) -> Tensor:
    return robust.ard(*side.pair, side.batch.x, side.batch.y, start)


def _rslad(side: Side, start: Tensor) -> Tensor:
    return robust.rslad(*side.pair, side.batch.x, start)


def _adaad(side: Side, start: Tensor) -> Tensor:
    return robust.adaad(*side.pair, side.batch.x, robust.apart(*side.pair, side.batch.x, start))


def _igdm(side: Side, start: Tensor) -> Tensor:
    x = side.batch.x
    return robust.igdm(*side.pair, x, robust.apart(*side.pair, x, start), side.batch.progress)


def _iad(side: Side, start: Tensor) -> Tensor:
    return robust.iad(*side.pair, side.batch.x, side.batch.y, start, side.batch.progress)


def _iad_ii(side: Side, start: Tensor) -> Tensor:
    batch = side.batch
    return robust.iad_ii(*side.pair, side.standard, batch.x, batch.y, start, batch.progress)


def _ada_iad(side: Side, start: Tensor) -> Tensor:
    batch = side.batch
    adversarial = robust.apart(*side.pair, batch.x, start)
    return robust.ada_iad(*side.pair, batch.x, batch.y, adversarial, batch.progress)


def _data_free(side: Side) -> Losses:
    method, batch = side.method, side.batch
    like = next(method.adversary.parameters())
    draw = partial(noise.normal, len(batch.x), method.latent, seed=batch.seed, like=like)
    of_student, of_generator = draw(stream=_STUDENT), draw(stream=_GENERATOR)
    share = noise.symmetric_beta(len(batch.x), 1.0, seed=batch.seed, stream=_SHARES, like=like)

    def step() -> Iterator[Tensor]:
        networks = (*side.pair, method.adversary)
        yield data_free.student_loss(*networks, method.connectors, of_student, share, batch.progress)
        yield data_free.generator_loss(*networks, of_generator)

    return step


PLAIN: dict[str, Plain] = {
    "ce": Plain(_one(_ce), SAME),
    "kd": Plain(_on_logits(distillation.kd)),
    "fitnet": _on_features(100.0, _fitnet),
    "at": _on_features(1000.0, _at),
    "sp": _on_features(3000.0, _sp),
    "vid": _on_features(1.0, _vid),
    "ft": _on_features(200.0, _ft),
    "crd": Plain(
        _one(_crd),
        "no fused op but cross-entropy: ours takes one product with the whole memory of 50,000 rows, where the "
        "published step gathers 16,385 rows an image; ours draws them in the step, the published loader before it",
    ),
    "rkd": _on_features(1.0, _rkd, ""),
    "dkd": Plain(_on_logits(partial(distillation.dkd, risen=1.0))),
    "triplet": Plain(_one(_triplet), "negatives from the batch; the published loop has the student see a second one"),
    "tald": Plain(
        _one(_tald),
        "of the projected variant, a reconstruction: the plain step is its predecessor's with a kernel an image",
        attacks=True,
    ),
    "bss": Plain(_one(partial(_at_boundaries, sampling.bss)), ENDS_EARLY, attacks=True),
    "amkd": Plain(_one(partial(_at_boundaries, sampling.amkd)), f"{ENDS_EARLY}; {RECONSTRUCTED}", attacks=True),
    "pgd-at": _robust(EPS, _pgd_at),
    "trades": _robust(NEAR, _trades),
    "ard": _robust(EPS, _ard, CLEAN_TOO),
    "rslad": _robust(NEAR, _rslad),
    "adaad": _robust(NEAR, _adaad, CLEAN_TOO),
    "iad": _robust(EPS, _iad),
    "iad-ii": _robust(EPS, _iad_ii),
    "ada-iad": _robust(NEAR, _ada_iad),
    "igdm": _robust(NEAR, _igdm, "the published step asks both networks again for what it has already; ours does not"),
    "data-free": Plain(
        _data_free, "a step of the student and one of the generator; two terms are reconstructions, on both sides"
    ),
    "ai-kd": Plain(_ai_kd, "a step of the student and one of the discriminator; " + RECONSTRUCTED),
}
