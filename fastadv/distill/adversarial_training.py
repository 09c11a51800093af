"""Adversarial training without a teacher, which makes the robust teachers: PGDAT and TRADES."""

from __future__ import annotations

from torch import Tensor

from fastadv.distill.method import Terms
from fastadv.distill.parts.robust import NEAR, RobustMethod, Views
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill


class PGDAT(RobustMethod):
    """Training on adversarial images: ``CE(S(x'), y)``, the mean over the batch; x' maximises it, by PGD.

    Args:
        eps, step_size, steps, attack_mode, clean_forward: see :class:`RobustMethod`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """

    needs_teacher = False
    smooths_labels = True

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
        clean_forward: bool = False,
    ) -> None:
        super().__init__(
            eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode, clean_forward=clean_forward
        )

    def terms_on(self, views: Views) -> Terms:
        return {"loss": views.cross_entropy(views.student_adversarial)}


class TRADES(RobustMethod):
    """Right on the clean image and of the same opinion all around it.

    ``L = CE(S(x), y) + beta KL(p_S(x) || p_S(x'))``, means over the batch, the gradient through both answers of the
    divergence; x' maximises ``KL(p_S(x) || p_S(x'))`` by PGD from next to x, where that divergence has no gradient yet.

    The released code has eps 0.031, step size 0.007 and a start of x + 0.001 N(0, 1); here the noise is uniform, with
    the same deviation.

    Args:
        beta: of the divergence.
        eps, step_size, steps, attack_mode: see :class:`RobustMethod`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019.
    """

    needs_teacher = False
    smooths_labels = True
    start_eps = NEAR

    def __init__(
        self,
        beta: float = 6.0,
        *,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
    ) -> None:
        super().__init__(eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode)
        self.beta = checks.number("beta", beta)

    def attack(self, views: Views) -> Tensor:
        return self.ascent(self.attacked(views.student), views.x, loss="kl", seed=views.seed, sample_ids=views.index)

    def terms_on(self, views: Views) -> Terms:
        ce = views.cross_entropy(views.student_clean)
        apart = kl_distill(views.student_adversarial, views.student_clean)
        return {"loss": ce + self.beta * apart, "ce": ce.detach(), "robust": apart.detach()}

    def extra_repr(self) -> str:
        return f"beta={self.beta}, {super().extra_repr()}"
