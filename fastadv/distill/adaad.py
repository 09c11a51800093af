"""Adaptive adversarial distillation: AdaAD."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Terms
from fastadv.distill.parts.robust import NEAR, RobustMethod, Views
from fastadv.distill.parts.teacher import required
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill


class AdaAD(RobustMethod):
    """The student answers as the teacher does where the two differ most.

    ``L = alpha KL(p_T(x') || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x))``, means over the batch; x' maximises
    ``KL(p_T(x') || p_S(x'))`` by PGD from next to x, with the gradient through both networks.

    The published code averages over batch and classes on CIFAR-10, which is this loss divided by the number of classes,
    and over the batch on CIFAR-100. Its start adds 0.001 N(0, 1) to x; here the noise is uniform, with the same
    deviation. Its other setting has twice the radius: eps 16/255 and step size 4/255.

    Args:
        alpha: the share of the adversarial images.
        eps, step_size, steps, attack_mode: see :class:`RobustMethod`; the teacher is always in eval mode.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Huang, Chen, Wang, Wang, Zhang, "Boosting accuracy and robustness of student models via adaptive adversarial
    distillation", CVPR 2023, and its released code.
    """

    needs_teacher = True
    start_eps = NEAR

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
    ) -> None:
        super().__init__(eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode)
        self.alpha = checks.number("alpha", alpha)

    def attack(self, views: Views) -> Tensor:
        networks = (self.attacked(views.student), required(self, views.teacher))
        return self.ascent(networks, views.x, loss=_apart, seed=views.seed, sample_ids=views.index)

    def terms_on(self, views: Views) -> Terms:
        robust = kl_distill(views.student_adversarial, views.teacher_adversarial)
        if self.alpha == 1:
            return {"loss": robust}
        clean = kl_distill(views.student_clean, views.teacher_clean)
        loss = self.alpha * robust + (1 - self.alpha) * clean
        return {"loss": loss, "robust": robust.detach(), "clean": clean.detach()}

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, {super().extra_repr()}"


def _apart(logits: tuple[Tensor, Tensor]) -> Tensor:
    """KL(p_T || p_S) [N] of the logits of student and teacher."""
    return kl_distill(*logits, reduction="none")
