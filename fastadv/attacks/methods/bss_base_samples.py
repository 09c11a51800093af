"""The samples that bss starts from and the classes it moves them to: bss_candidates and bss_targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import count
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.numerics import accumulate
from fastadv.ops import checks


def bss_candidates(teacher: Tensor, student: Tensor, target: Tensor, *, size: int = 64) -> tuple[Tensor, Tensor]:
    """Choose the samples of a batch that are worth a boundary supporting sample, ``size`` at most.

    Worth it are those that teacher and student both classify as ``target``; of more than ``size`` those on which they
    differ most, by ``sum_{c != target} (p_T(c) - p_S(c))^2`` with the probabilities p. The shapes of the results are
    the same whatever the values are, and nothing waits for the device.

    Args:
        teacher, student: logits [N, C], float64, float32, bfloat16 or float16; no gradient flows through the choice.
        target: the true classes [N], int64.
        size: how many samples to attack.

    Returns:
        ``(samples, chosen)``, both [min(size, N)]: places in the batch, int64, the largest difference first, and
        whether the sample there is worth it. Where fewer than ``size`` samples are, the others fill up and are not
        chosen: weigh what is computed of them by ``chosen``.

    Raises:
        TypeError: teacher or student are no floating-point tensors, target is not int64, size is no int.
        ValueError: shapes or devices differ, size is below 1.

    Source: Heo, Lee, Yun, Choi, "Knowledge distillation with adversarial samples supporting decision boundary", AAAI
    2019, as its released code has it.
    """
    checks.logits("teacher", teacher)
    checks.floating("student", student)
    checks.same("student", student, "teacher", teacher)
    checks.target(target, teacher)
    count("size", size, 1)
    with torch.no_grad():
        right = (teacher.argmax(1) == target) & (student.argmax(1) == target)
        gap = (accumulate(teacher).softmax(1) - accumulate(student).softmax(1)).square()
        elsewhere = torch.arange(teacher.shape[1], device=teacher.device) != target[:, None]
        score = torch.where(right, (gap * elsewhere).sum(1), -math.inf)
        samples = score.topk(min(size, score.shape[0])).indices
        return samples, right[samples]


def bss_targets(logits: Tensor, *, seed: int | Tensor | None = None, sample_ids: Tensor | None = None) -> Tensor:
    """Draw the class that :func:`bss` moves a sample to: k, not the predicted, with probability ``p(k) / (1 - max p)``.

    p are the probabilities of the logits. Drawn as the largest of ``z_k + G_k`` over the other classes, with G from
    the standard Gumbel distribution, so that also where max p rounds to one the others keep their proportions.

    Args:
        logits: the teacher's, [N, C] with C of 2 at least, float64, float32, bfloat16 or float16.
        seed, sample_ids: of the draw, see :func:`pgd`. A sample with the same identity, seed and logits has the same
            target in any batch.

    Returns:
        Classes [N], int64.

    Raises:
        TypeError: logits are no floating-point tensor, seed or sample_ids are not int64.
        ValueError: a shape or device is wrong, too few classes; no seed under torch.compile.

    Source: Heo, Lee, Yun, Choi, "Knowledge distillation with adversarial samples supporting decision boundary", AAAI
    2019; Gumbel, "Statistical theory of extreme values and some practical applications", 1954, for the draw.
    """
    checks.logits("logits", logits)
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have shape [N, C] with C of at least 2, got {list(logits.shape)}")
    with torch.no_grad():
        z = accumulate(logits)
        half = torch.full_like(z, 0.5)
        uniform = Ball(eps=0.5, bounds=None).random_rows(half, 1, Noise(seed, sample_ids))
        # The noise has 24 bits; an end of the interval would be an infinite deviate.
        uniform = uniform.clamp(2.0**-25, 1 - 2.0**-24)
        drawn = z - (-uniform.log()).log()
        predicted = torch.arange(z.shape[1], device=z.device) == z.argmax(1, keepdim=True)
        return drawn.masked_fill(predicted, -math.inf).argmax(1)
