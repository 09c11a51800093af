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
from benchmarks.cases.setup import CLASSES, Setup
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

    losses: Callable[[Setup], Losses]
    note: str = ""
    attacks: bool = False


def _one(make: Callable[[Setup], Callable[[], Tensor]]) -> Callable[[Setup], Losses]:
    """Of a method without an adversary."""

    def losses_of(setup: Setup) -> Losses:
        loss = make(setup)

        def step() -> Iterator[Tensor]:
            yield loss()

        return step

    return losses_of


def _ce(setup: Setup) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(setup.student(setup.batch.x), setup.batch.y)


def _on_logits(loss: Callable[..., Tensor]) -> Callable[[Setup], Losses]:
    return _one(lambda setup: lambda: loss(*setup.pair, setup.batch.x, setup.batch.y))


def _on_features(
    beta: float, distance: Callable[[Any, Features, Features], Tensor], note: str = SAME_DISTANCE
) -> Plain:
    """RepDistiller's sum with ``distance`` of the method's modules and what student and teacher show."""

    def make(setup: Setup) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            of_student, of_teacher = distillation.see(*setup.pair, setup.batch.x)
            apart = distance(setup.method, of_student, of_teacher)
            return distillation.weighted(of_student.logits, of_teacher.logits, setup.batch.y, apart, beta=beta)

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


def _crd(setup: Setup) -> Callable[[], Tensor]:
    contrast, batch = setup.method.contrast, setup.batch
    assert batch.index is not None
    places = torch.cat((batch.index[:, None], contrast._draw(batch.y, batch.index, batch.seed)), dim=1)
    of_student, of_teacher = (
        features.ContrastiveMemory(memory.rows.clone(), memory.temperature, memory.momentum)
        for memory in (contrast.student, contrast.teacher)
    )

    def loss() -> Tensor:
        student, teacher = distillation.see(*setup.pair, batch.x)
        anchor = F.normalize(contrast.student.linear(student.embedding))
        other = F.normalize(contrast.teacher.linear(teacher.embedding))
        told = of_teacher.contrast(anchor, places) + of_student.contrast(other, places)
        of_student.remember(anchor, batch.index)
        of_teacher.remember(other, batch.index)
        return distillation.weighted(student.logits, teacher.logits, batch.y, told, beta=0.8)

    return loss


def _triplet(setup: Setup) -> Callable[[], Tensor]:
    y = setup.batch.y
    drawn = noise.uniform(len(y), len(y), seed=setup.batch.seed, stream=noise.APART, like=setup.batch.x)
    negatives = drawn.masked_fill(y[:, None] == y, -float("inf")).argmax(1)
    return lambda: distillation.triplet(*setup.pair, setup.batch.x, y, negatives)


def _ai_kd(setup: Setup) -> Losses:
    method, batch = setup.method, setup.batch

    def step() -> Iterator[Tensor]:
        yield from distillation.ai_kd(*setup.pair, method.previous, method.adversary, batch.x, batch.y, batch.progress)

    return step


def _tald(setup: Setup) -> Callable[[], Tensor]:
    x, y = setup.batch.x, setup.batch.y
    start = setup.start(EPS, setup.method.particles).unflatten(0, (len(x), -1))
    return lambda: sampling.tald(*setup.pair, x, y, sampling.particles(setup.teacher, x, y, start))


def _at_boundaries(loss: Callable[..., Tensor], setup: Setup) -> Callable[[], Tensor]:
    batch = setup.batch
    half = batch.x.new_full((len(batch.x), CLASSES), 0.5)
    uniform = Ball(eps=0.5, bounds=None).random_rows(half, 1, Noise(batch.seed, batch.index))
    gumbel = -(-uniform.clamp(2.0**-25, 1 - 2.0**-24).log()).log()
    return lambda: loss(*setup.pair, batch.x, batch.y, gumbel, batch.progress)


def _robust(radius: float, loss: Callable[[Setup, Tensor], Tensor], note: str = "") -> Plain:
    """``loss`` of a setup and where its attack starts, drawn from the ball of that radius."""

    def make(setup: Setup) -> Callable[[], Tensor]:
        return partial(loss, setup, setup.start(radius))

    return Plain(_one(make), note, attacks=True)


def _pgd_at(setup: Setup, start: Tensor) -> Tensor:
    return robust.pgd_at(setup.student, setup.batch.x, setup.batch.y, start)


def _trades(setup: Setup, start: Tensor) -> Tensor:
    return robust.trades(setup.student, setup.batch.x, setup.batch.y, start)


def _ard(setup: Setup, start: Tensor) -> Tensor:
    return robust.ard(*setup.pair, setup.batch.x, setup.batch.y, start)


def _rslad(setup: Setup, start: Tensor) -> Tensor:
    return robust.rslad(*setup.pair, setup.batch.x, start)


def _adaad(setup: Setup, start: Tensor) -> Tensor:
    return robust.adaad(*setup.pair, setup.batch.x, robust.apart(*setup.pair, setup.batch.x, start))


def _igdm(setup: Setup, start: Tensor) -> Tensor:
    x = setup.batch.x
    return robust.igdm(*setup.pair, x, robust.apart(*setup.pair, x, start), setup.batch.progress)


def _saad(setup: Setup, start: Tensor) -> Tensor:
    return robust.saad(*setup.pair, setup.batch.x, setup.batch.y, start, setup.batch.progress)


def _iad(setup: Setup, start: Tensor) -> Tensor:
    return robust.iad(*setup.pair, setup.batch.x, setup.batch.y, start, setup.batch.progress)


def _iad_ii(setup: Setup, start: Tensor) -> Tensor:
    batch = setup.batch
    return robust.iad_ii(*setup.pair, setup.standard, batch.x, batch.y, start, batch.progress)


def _ada_iad(setup: Setup, start: Tensor) -> Tensor:
    batch = setup.batch
    adversarial = robust.apart(*setup.pair, batch.x, start)
    return robust.ada_iad(*setup.pair, batch.x, batch.y, adversarial, batch.progress)


def _data_free(setup: Setup) -> Losses:
    method, batch = setup.method, setup.batch
    like = next(method.adversary.parameters())
    draw = partial(noise.normal, len(batch.x), method.latent, seed=batch.seed, like=like)
    of_student, of_generator = draw(stream=_STUDENT), draw(stream=_GENERATOR)
    share = noise.symmetric_beta(len(batch.x), 1.0, seed=batch.seed, stream=_SHARES, like=like)

    def step() -> Iterator[Tensor]:
        networks = (*setup.pair, method.adversary)
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
    "saad": _robust(NEAR, _saad),
    "data-free": Plain(
        _data_free, "a step of the student and one of the generator; two terms are reconstructions, on both sides"
    ),
    "ai-kd": Plain(_ai_kd, "a step of the student and one of the discriminator; " + RECONSTRUCTED),
}
