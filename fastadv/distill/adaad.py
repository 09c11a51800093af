"""Adaptive adversarial distillation: AdaAD."""

from __future__ import annotations

from torch import Tensor

from fastadv.attacks.model.networks import check_logits
from fastadv.distill.method import Network, Terms
from fastadv.distill.parts.expansion import TrueClassExpansion
from fastadv.distill.parts.robust import NEAR, RobustMethod, Views
from fastadv.distill.parts.teacher import required
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill

_INNER = {name: name for name in ("both", "linear", "student")}


class AdaAD(RobustMethod):
    """The student answers as the teacher does where the two differ most.

    ``L = alpha KL(p_T(x') || p_S(x')) + (1 - alpha) KL(p_T(x) || p_S(x))``, means over the batch; x' maximises by PGD
    from next to x, as ``inner`` says,

    - "both": ``KL(p_T(x') || p_S(x'))`` with the gradient through both networks, which is the published method;
    - "linear": the same with the teacher's true logit to first order around x and its others constant
      (:class:`fastadv.distill.parts.expansion.TrueClassExpansion`), as SAAD has it: the teacher runs once a batch
      forwards and backwards, in place of once a step;
    - "student": the student's cross-entropy, without the teacher: in IGDM's table 6 AdaAD + IGDM then takes 3.36
      minutes an epoch in place of 11.21, and AdaAD 10.62, at an AutoAttack accuracy of 29.34, 30.32 and 28.06 %.

    Where student and teacher are so sure of one class that float32 holds no other probability (below 1e-45), the
    divergence of "both" and "linear" has no gradient and the image stays where it is.

    The published code averages over batch and classes on CIFAR-10, which is this loss divided by the number of classes,
    and over the batch on CIFAR-100. Its start adds 0.001 N(0, 1) to x; here the noise is uniform, with the same
    deviation. Its other setting has twice the radius: eps 16/255 and step size 4/255.

    Args:
        alpha: the share of the adversarial images.
        inner: "both", "linear" or "student".
        eps, step_size, steps, attack_mode, clean_forward: see :class:`RobustMethod`; the teacher is in eval mode.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Huang, Chen, Wang, Wang, Zhang, "Boosting accuracy and robustness of student models via adaptive adversarial
    distillation", CVPR 2023, and its released code; "student": Lee, Cho, Kim, "Indirect gradient matching for
    adversarial robust distillation", ICLR 2025; "linear": see :class:`SAAD`.
    """

    needs_teacher = True
    start_eps = NEAR

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        inner: str = "both",
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
        clean_forward: bool = False,
    ) -> None:
        super().__init__(
            eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode, clean_forward=clean_forward
        )
        self.alpha = checks.number("alpha", alpha)
        self.inner = checks.choice("inner", inner, _INNER)
        self.needs_labels = self.inner != "both"
        if self.inner == "linear":
            self._expansion = TrueClassExpansion()

    def attack(self, views: Views) -> Tensor:
        if self.inner == "student":
            return super().attack(views)
        teacher = required(self, views.teacher)
        if self.inner == "linear":
            teacher = self._expansion.around(teacher, views.x, views.y)
        return apart_from(teacher, self, views)

    def terms_on(self, views: Views) -> Terms:
        robust = kl_distill(views.student_adversarial, views.teacher_adversarial)
        if self.alpha == 1:
            return {"loss": robust}
        clean = kl_distill(views.student_clean, views.teacher_clean)
        loss = self.alpha * robust + (1 - self.alpha) * clean
        return {"loss": loss, "robust": robust.detach(), "clean": clean.detach()}

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, inner={self.inner!r}, {super().extra_repr()}"


def apart_from(teacher: Network, method: RobustMethod, views: Views) -> Tensor:
    """Return the images [N, ...] around the clean ones on which the student differs most from ``teacher``."""
    networks = (method.attacked(views.student), teacher)
    return method.ascent(networks, views.x, loss=_apart, seed=views.seed, sample_ids=views.index)


def _apart(logits: tuple[Tensor, Tensor]) -> Tensor:
    """KL(p_T || p_S) [N] of the logits of student and teacher."""
    student = check_logits("student", logits[0], logits[0])
    return kl_distill(student, check_logits("teacher", logits[1], student), reduction="none")
