"""Robust soft label adversarial distillation: RSLAD."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Terms
from fastadv.distill.parts.robust import NEAR, RobustMethod, Views
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill


class RSLAD(RobustMethod):
    """The teacher's answer on the clean image in place of every label: in the loss and in the attack.

    ``L = scale [w KL(p_T(x) || p_S(x')) + (1 - w) KL(p_T(x) || p_S(x))]``, means over the batch; x' maximises
    ``KL(p_T(x) || p_S(x'))`` by PGD from next to x.

    The published code averages over batch and classes, times 10 on CIFAR-100: on CIFAR-10 and CIFAR-100 a tenth of the
    loss at scale 1. It takes the logarithm of the teacher's p + 1e-5, which shifts the value and not the gradient. Its
    start adds 0.001 N(0, 1) to x; here the noise is uniform, with the same deviation.

    Args:
        adversarial_weight: w.
        scale: of the loss, against the terms that others add to it and for the same learning rate; 0.1 as published.
        eps, step_size, steps, attack_mode: see :class:`RobustMethod`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Zi, Zhao, Ma, Jiang, "Revisiting adversarial robustness distillation: robust soft labels make student
    better", ICCV 2021, and its released code.
    """

    needs_teacher = True
    needs_labels = False
    start_eps = NEAR

    def __init__(
        self,
        adversarial_weight: float = 5 / 6,
        *,
        scale: float = 1.0,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
    ) -> None:
        super().__init__(eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode)
        self.adversarial_weight = checks.number("adversarial_weight", adversarial_weight)
        self.scale = checks.positive("scale", scale)

    def attack(self, views: Views) -> Tensor:
        student, reference = self.attacked(views.student), views.teacher_clean
        return self.ascent(student, views.x, loss="kl", reference=reference, seed=views.seed, sample_ids=views.index)

    def terms_on(self, views: Views) -> Terms:
        robust = kl_distill(views.student_adversarial, views.teacher_clean)
        clean = kl_distill(views.student_clean, views.teacher_clean)
        loss = self.scale * (self.adversarial_weight * robust + (1 - self.adversarial_weight) * clean)
        return {"loss": loss, "robust": robust.detach(), "clean": clean.detach()}

    def extra_repr(self) -> str:
        return f"adversarial_weight={self.adversarial_weight}, scale={self.scale}, {super().extra_repr()}"
