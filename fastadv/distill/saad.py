"""Sample-wise adaptive adversarial distillation: SAAD."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.distill.adaad import apart_from
from fastadv.distill.method import Terms
from fastadv.distill.parts.expansion import TrueClassExpansion
from fastadv.distill.parts.robust import NEAR, RobustMethod, Views
from fastadv.distill.parts.teacher import required
from fastadv.numerics import accumulate
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill
from fastadv.ops.matching import igdm_loss


class SAAD(RobustMethod):
    """AdaAD and IGDM, where an adversarial image counts the more the less certain the teacher is of it.

    ``L = mean_i {w_i [KL(p_T(x'_i) || p_S(x'_i)) + alpha r KL(softmax(dT_i) || softmax(dS_i))]
    + beta (1 - v_i) KL(p_T(x_i) || p_S(x_i))}``

    with ``dT = T(x') - T(2 x - x')``, the same dS of the student, the ramp r, which is the share of training that is
    done, and of the entropies ``H_i`` of ``p_T(x'_i)`` in the batch

    ``w_i = entropy_scale (H_i - min H)``,  ``v_i = (H_i - min H) / (max H - min H)``.

    x' maximises ``KL(p(x') || p_S(x'))`` by PGD from next to x, where p is the softmax of the teacher's logits at x
    with the true class's to first order (:class:`fastadv.distill.parts.expansion.TrueClassExpansion`). The teacher runs
    three times a batch, once with its backward pass and once more where beta is not 0, however many steps the attack
    makes.

    A batch that is computed in parts, or by several processes, has the weights of each part. The published start adds
    0.001 N(0, 1) to x; here the noise is uniform, with the same deviation. Its ramp is constant within an epoch. The
    published students are averages of weights over epochs (SWA) from epoch 95 of 200.

    Args:
        alpha: of IGDM's term: 1, 20 and 10 on CIFAR-10, CIFAR-100 and Tiny-ImageNet in the paper, 10 on
            CIFAR-100 in a comment of the released code.
        beta: of the clean images: 0 is SAAD; SAAD-C has 0.2 on CIFAR-10, 0.5 on CIFAR-100 and Tiny-ImageNet.
        entropy_scale: of the weights w.
        inner_scale: of the first-order term in the attack.
        eps, step_size, steps, attack_mode: see :class:`RobustMethod`; the teacher is always in eval mode.

    Terms: "loss", "robust", "igdm" and "clean", the three means before alpha r and beta.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Lee, Chung, "Sample-wise adaptive weighting for transfer consistency in adversarial distillation", TMLR
    2026, and its released code.
    """

    needs_teacher = True
    follows_progress = True
    start_eps = NEAR

    def __init__(
        self,
        alpha: float = 20.0,
        beta: float = 0.0,
        *,
        entropy_scale: float = 5.0,
        inner_scale: float = 1.0,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
    ) -> None:
        # The released code runs the clean images through the student also where beta is 0.
        super().__init__(eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode, clean_forward=True)
        self.alpha = checks.number("alpha", alpha)
        self.beta = checks.not_negative("beta", beta)
        self.entropy_scale = checks.not_negative("entropy_scale", entropy_scale)
        self._expansion = TrueClassExpansion(checks.number("inner_scale", inner_scale))

    def attack(self, views: Views) -> Tensor:
        teacher = self._expansion.around(required(self, views.teacher), views.x, views.y)
        return apart_from(teacher, self, views)

    def terms_on(self, views: Views) -> Terms:
        behind = 2 * views.x - views.adversarial
        student, teacher = views.student_adversarial, views.teacher_adversarial
        uncertainty = _entropy(teacher)
        above = uncertainty - uncertainty.min()
        weight = self.entropy_scale * above
        robust = kl_distill(student, teacher, weight=weight)
        matching = igdm_loss(
            student, views.student_logits(behind), teacher, views.teacher_logits(behind), weight=weight
        )
        loss = robust + self.alpha * views.progress * matching
        terms = {"robust": robust.detach(), "igdm": matching.detach()}
        if self.beta:
            certainty = 1 - above / (above.max() + 1e-8)
            clean = kl_distill(views.student_clean, views.teacher_clean, weight=certainty)
            loss = loss + self.beta * clean
            terms["clean"] = clean.detach()
        return {"loss": loss, **terms}

    def extra_repr(self) -> str:
        return (
            f"alpha={self.alpha}, beta={self.beta}, entropy_scale={self.entropy_scale}, "
            f"inner_scale={self._expansion.scale}, {super().extra_repr()}"
        )


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy [N] of the softmax of ``logits`` [N, C], in nats."""
    return torch.distributions.Categorical(logits=accumulate(logits), validate_args=False).entropy()
