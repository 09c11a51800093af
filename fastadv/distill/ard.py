"""Adversarially robust distillation: ARD."""

from __future__ import annotations

from fastadv.distill.method import Terms
from fastadv.distill.parts.robust import RobustMethod, Views
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill


class ARD(RobustMethod):
    """The student under attack answers as the teacher does on the clean image.

    ``L = alpha T^2 KL(p_T(x) || p_S(x')) + (1 - alpha) CE(S(x), y)``, with the softmax p of logits over temperature T,
    both means over the batch; x' maximises the student's cross-entropy, by PGD from a uniform start.

    The published code averages the divergence over batch and classes, which is this term divided by the number of
    classes. It runs the student on the clean images also where alpha is 1 and they only move BatchNorm's buffers; here
    that takes ``clean_forward``.

    Args:
        temperature: T > 0.
        alpha: the share of the divergence.
        eps, step_size, steps, attack_mode, clean_forward: see :class:`RobustMethod`; the published attack is in train
            mode.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Goldblum, Fowl, Feizi, Goldstein, "Adversarially robust distillation", AAAI 2020, and its released code.
    """

    needs_teacher = True

    def __init__(
        self,
        temperature: float = 30.0,
        alpha: float = 1.0,
        *,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "train",
        clean_forward: bool = False,
    ) -> None:
        super().__init__(
            eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode, clean_forward=clean_forward
        )
        self.temperature = checks.positive("temperature", temperature)
        self.alpha = checks.number("alpha", alpha)
        self.smooths_labels = self.alpha != 1

    def terms_on(self, views: Views) -> Terms:
        soft = kl_distill(views.student_adversarial, views.teacher_clean, temperature=self.temperature)
        if self.alpha == 1:
            return {"loss": soft}
        hard = views.cross_entropy(views.student_clean)
        return {"loss": self.alpha * soft + (1 - self.alpha) * hard, "robust": soft.detach(), "ce": hard.detach()}

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, alpha={self.alpha}, {super().extra_repr()}"
