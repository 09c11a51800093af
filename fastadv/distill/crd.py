"""Contrastive distillation: CRD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastadv.attacks.loop.arguments import count
from fastadv.distill.method import Batch
from fastadv.distill.parts import noise
from fastadv.distill.parts.building import UninitializedModule, example_features
from fastadv.distill.parts.features import Features
from fastadv.distill.parts.memory import MemoryBank
from fastadv.distill.parts.weighted import WeightedLoss
from fastadv.numerics import accumulate
from fastadv.ops import checks

# Stands for the class of an image that no batch has shown.
_UNSEEN = -1


class CRD(WeightedLoss):
    """Contrastive representation distillation: each network tells its image in the other's memory from K negatives.

    Two linear layers, learned with the student, embed what the last linear layer of each network reads, to l2 length
    one; two memories hold an embedding of each of the N training images. For an anchor e and the other network's
    memory m, with ``P_j = exp(<e, m_j> / tau) / Z``, the image i itself and negatives j of other classes::

        l(e) = -log(P_i / (P_i + K/N)) - sum_j log((K/N) / (P_j + K/N))
        D = mean l(e_S) + mean l(e_T)

    Z, one for each memory, is N times the mean of the first batch's exponentials, and stays. After each step
    ``m_i <- m_i momentum + (1 - momentum) e_i``, brought back to length one; the memories start as noise. All of it is
    in the state_dict.

    Negatives are drawn anew in each step, from ``batch.seed`` and the image's index, on the device. Classes are known
    of the images seen so far; the others, whose memory is noise, are negatives of all. They are drawn with replacement;
    the published code draws without where there are enough.

    Args:
        beta, gamma, alpha, temperature: of ``L = gamma CE + alpha KD + beta D``, see :class:`WeightedLoss`.
        negatives: K.
        width: of the embeddings.
        contrast_temperature: tau.
        momentum: of the memories, in [0, 1].

    Raises:
        TypeError: an argument is of the wrong type; a network shows no features; ``batch.index`` is None.
        ValueError: an argument is out of range.

    Source: Tian, Krishnan, Isola, "Contrastive representation distillation", ICLR 2020, as its released code
    (RepDistiller) has it, with negatives in its "exact" mode.
    """

    mixes_images = False
    remembers_images = True
    term = "crd"

    def __init__(
        self,
        *,
        beta: float = 0.8,
        gamma: float = 1.0,
        alpha: float = 0.0,
        temperature: float = 4.0,
        negatives: int = 16384,
        width: int = 128,
        contrast_temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(beta=beta, gamma=gamma, alpha=alpha, temperature=temperature)
        self.negatives = count("negatives", negatives, 1)
        self.width = count("width", width, 1)
        self.contrast_temperature = checks.positive("contrast_temperature", contrast_temperature)
        self.momentum = checks.not_negative("momentum", momentum)
        if self.momentum > 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum!r}")
        self.contrast: nn.Module = UninitializedModule("CRD")

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        of_student, of_teacher = example_features(self, student, teacher, x)
        widths = of_student.embedding.shape[1], of_teacher.embedding.shape[1]
        contrast = _Contrast(widths, self.width, images, self.negatives, self.contrast_temperature, self.momentum)
        self.contrast = contrast.to(accumulate(of_student.embedding))

    def distance(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        if batch.index is None:
            raise TypeError("batch.index must be the positions of the images in the training set for CRD, got None")
        return self.contrast(student.embedding, teacher.embedding, batch.y, batch.index, batch.seed_for(self))


class _Contrast(nn.Module):
    """The layers and memories of CRD."""

    classes: Tensor

    def __init__(
        self,
        inputs: tuple[int, int],
        width: int,
        images: int,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.student, self.teacher = (MemoryBank(size, width, images, temperature, momentum) for size in inputs)
        self.negatives = negatives
        self.register_buffer("classes", torch.full((images,), _UNSEEN))

    def forward(self, student: Tensor, teacher: Tensor, y: Tensor, index: Tensor, seed: int | Tensor) -> Tensor:
        of_student, of_teacher = self.student.embed(student), self.teacher.embed(teacher)
        self.classes.index_copy_(0, index, y)
        indices = torch.cat((index[:, None], self._draw(y, index, seed)), dim=1)
        loss = self.teacher.nce_loss(of_student, indices) + self.student.nce_loss(of_teacher, indices)
        self.student.remember(of_student, index)
        self.teacher.remember(of_teacher, index)
        return loss

    def _draw(self, y: Tensor, index: Tensor, seed: int | Tensor) -> Tensor:
        """Draw images of other classes than ``y``, each as likely: [N, negatives]."""
        images = len(self.classes)
        # Sorted by class, an image's own class is one block: what is drawn of the others steps over it.
        order = self.classes.argsort(stable=True)
        ranked = self.classes[order]
        first, last = torch.searchsorted(ranked, y), torch.searchsorted(ranked, y, right=True)
        own = (last - first)[:, None]
        # In double precision, so that the product rounds to no more than is there.
        like = self.student.rows
        drawn = noise.uniform(index, self.negatives, seed=seed, stream=noise.APART, like=like).double()
        drawn = ((drawn + 1) / 2 * (images - own)).long()
        indices = drawn + own * (drawn >= first[:, None])
        # A set of a single class has no others: then an image is its own negative.
        return order[indices.clamp(max=images - 1)]
