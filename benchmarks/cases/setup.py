"""The parts of a training step, ours and the plain one: small networks, a batch, and the method's own modules."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.cases.inputs import CIFAR, generator, uniform
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.distill import CRD, IADII, Batch
from fastadv.distill.parts.memory import MemoryBank
from fastadv.train.config.methods import METHODS
from fastadv.train.networks import catalogue

CLASSES = 100
# Of the training set, whose every image CRD remembers.
IMAGES = 50_000
TEACHER, STUDENT = "resnet14", "resnet8"
# Options of the methods whose published step does what the default here does not.
_AS_PUBLISHED: dict[str, dict[str, Any]] = {"bss": {"stop_early": True}, "amkd": {"stop_early": True}}


@dataclass(frozen=True)
class Setup:
    """Parts of a step. A plain step takes nothing of ``method`` but the modules it has built.

    standard: the second teacher of IAD-II.
    """

    method: Any
    student: Any
    teacher: Any
    standard: Any
    batch: Batch

    @property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        return self.student, self.teacher

    def start(self, radius: float, copies: int = 1) -> Tensor:
        """Starting points of the method's attack: [N * copies, ...] in the linf ball."""
        batch = self.batch
        return Ball(radius).random_rows(batch.x, copies, Noise(batch.seed, batch.index))

    def doubled(self) -> Setup:
        """A copy in float64."""
        copied = copy.deepcopy(self)
        for module in (copied.method, copied.student, copied.teacher, copied.standard):
            module.double()
        return replace(copied, batch=replace(copied.batch, x=copied.batch.x.double()))


def build_setup(name: str, images: int, device: torch.device) -> Setup:
    """The networks, and the method ``name`` in the middle of its training, with a batch of ``images``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher, standard, student = (
            catalogue.build(network, num_classes=CLASSES, image_shape=CIFAR).to(device)
            for network in (TEACHER, TEACHER, STUDENT)
        )
        source = generator(device)
        x = F.interpolate(uniform(source, images, 3, 4, 4), CIFAR[1:], mode="bicubic").clamp(0, 1)
        y = torch.arange(images, device=device) % (images // 2)
        for network in (teacher.eval(), standard.eval(), student):
            _fit(network, x, y)
        teacher.requires_grad_(False)
        kind = METHODS[name].kind
        method = kind(standard) if kind is IADII else kind(**_AS_PUBLISHED.get(name, {}))
        with warnings.catch_warnings():
            # A teacher that nobody trained is what IGDM warns of; here only its time counts.
            warnings.simplefilter("ignore", UserWarning)
            method.build(student, teacher, x, images=IMAGES)
    method.to(device)
    index = torch.arange(images, device=device)
    if isinstance(method, CRD):
        method.contrast.classes.copy_(torch.arange(IMAGES) % CLASSES).index_copy_(0, index, y)
    # In the second epoch, in which AI-KD has a previous one.
    for _ in range(2):
        method.start_epoch(student)
    for module in (student, method):
        _make_repeatable(module)
    shown = x if method.needs_images else x.new_empty(images, 0)
    return Setup(method, student, teacher, standard, Batch(shown, y, 0.5, index=index, seed=0))


@torch.no_grad()
def _fit(network: nn.Module, x: Tensor, y: Tensor) -> None:
    """Set the last layer so that ``network`` knows the images, as a trained one does: BSS attacks no others."""
    embedding = network.with_features(x).embedding
    logits = 6.0 * F.one_hot(y, CLASSES) + torch.randn(len(x), CLASSES).to(x)
    network.fc.weight.copy_((torch.linalg.pinv(embedding) @ logits).T)
    network.fc.bias.zero_()


def _make_repeatable(network: nn.Module) -> None:
    """Let a step leave nothing behind, so that every call that is timed is the one that was compared."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 0.0
        elif isinstance(module, MemoryBank):
            module.rows.copy_(F.normalize(module.rows))
            module.momentum = 1.0
