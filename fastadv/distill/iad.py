"""Introspective adversarial distillation, which trusts the teacher where it is right: IAD, IADII and AdaIAD."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastadv.distill.adaad import AdaAD
from fastadv.distill.method import Network, Terms
from fastadv.distill.parts.robust import RobustMethod, Views
from fastadv.distill.parts.share_of_training import share_of_training
from fastadv.distill.parts.teacher import teacher_logits
from fastadv.numerics import accumulate
from fastadv.ops import checks
from fastadv.ops.divergence import kl_distill


class IAD(RobustMethod):
    """IAD-I: as ARD, and where the teacher is wrong the student under attack also keeps its own clean answer.

    ``L = alpha [T^2 KL(p_T(x) || p_S(x')) + (1 - A) KL(p_S(x) || p_S(x'))] + (1 - alpha) CE(S(x), y)``

    with the teacher's trust ``A = p_T(y | x')^beta`` of each image, a constant, and means over the batch; x' maximises
    the student's cross-entropy, by PGD from a uniform start. The first divergence is that of the softmax over
    temperature T; the second has temperature 1, and starts once ``begin`` of the training is done.

    This is the released code. The paper has A before the teacher's term too. The gradient flows into p_S(x) as well;
    ``detach_clean`` holds it, which is another method than the published one. Where neither term wants the clean
    images, the student sees them only with ``clean_forward``, as in the published code: they move BatchNorm's buffers.

    Args:
        temperature: T > 0.
        alpha: the share of the two divergences.
        beta: of the trust; 0 trusts always.
        begin: the share of training after which the student listens to itself: 60 of 200 epochs.
        detach_clean: whether the student's clean answer is a constant of the second divergence.
        eps, step_size, steps, attack_mode, clean_forward: see :class:`RobustMethod`; the published attack is in train
            mode.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Zhu et al., "Reliable adversarial distillation with unreliable teachers", ICLR 2022, and its released code.
    """

    needs_teacher = True
    follows_progress = True

    def __init__(
        self,
        temperature: float = 1.0,
        alpha: float = 1.0,
        *,
        beta: float = 0.1,
        begin: float = 0.3,
        detach_clean: bool = False,
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
        self.beta = checks.not_negative("beta", beta)
        self.begin = share_of_training("begin", begin)
        self.detach_clean = checks.flag("detach_clean", detach_clean)

    def terms_on(self, views: Views) -> Terms:
        guided = kl_distill(views.student_adversarial, views.teacher_clean, temperature=self.temperature)
        own = _introspection(views, self.beta, begin=self.begin, detach_clean=self.detach_clean)
        loss = self.alpha * (guided + own)
        if self.alpha != 1:
            loss = loss + (1 - self.alpha) * views.cross_entropy(views.student_clean)
        return {"loss": loss, "teacher": guided.detach(), "self": own.detach()}

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, alpha={self.alpha}, beta={self.beta}, begin={self.begin}, "
            f"detach_clean={self.detach_clean}, {super().extra_repr()}"
        )


class IADII(RobustMethod):
    """IAD-II: labels, a robust teacher where it is right, the student's own answer where it is not, a plain teacher.

    ``L = (1 - a1 - a2) CE(S(x'), y) + a1 T^2 [A KL(p_T(x') || p_S(x')) + (1 - A) KL(p_S(x) || p_S(x'))]
    + a2 T^2 KL(p_U(x') || p_S(x'))``

    with A, x' and p_S(x) as in :class:`IAD` and a second teacher U, trained on clean images. A is 1 until ``begin`` of
    the training is done, which is AKD2. The divergence from the student's own answer has temperature 1, the others T.

    Without a second teacher its term is left out and its share goes to the labels; that is not published, and ``build``
    says so in ``notes``.

    Args:
        standard_teacher: U, on the device of the student; only read: in eval mode, without gradient, and no part of the
            method's state.
        temperature: T > 0.
        teacher_weight: a1.
        standard_weight: a2; None is 0.25 with a second teacher, and 0 without.
        beta, detach_clean: see :class:`IAD`.
        begin: the share of training after which the student listens to itself: 40 of 200 epochs.
        eps, step_size, steps, attack_mode: see :class:`RobustMethod`; the published attack is in train mode.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name; standard_weight is given and there is no second
            teacher, at ``build`` or the first step.

    Source: Zhu et al., "Reliable adversarial distillation with unreliable teachers", ICLR 2022, and its released code.
    """

    needs_teacher = True
    follows_progress = True
    smooths_labels = True

    def __init__(
        self,
        standard_teacher: Network | None = None,
        *,
        temperature: float = 1.0,
        teacher_weight: float = 0.5,
        standard_weight: float | None = None,
        beta: float = 0.1,
        begin: float = 0.2,
        detach_clean: bool = False,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "train",
    ) -> None:
        super().__init__(eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode)
        # In a tuple, so that it does not become a submodule, whose parameters would be trained and saved.
        self._standard = (standard_teacher,)
        self.temperature = checks.positive("temperature", temperature)
        self.teacher_weight = checks.number("teacher_weight", teacher_weight)
        usual = 0.0 if standard_teacher is None else 0.25
        self.standard_weight = usual if standard_weight is None else checks.number("standard_weight", standard_weight)
        self.beta = checks.not_negative("beta", beta)
        self.begin = share_of_training("begin", begin)
        self.detach_clean = checks.flag("detach_clean", detach_clean)

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        super().build(student, teacher, x, images=images)
        alone = self._standard_teacher() is None
        self.notes = ("without a second teacher its share goes to the labels, which is not published",) if alone else ()

    def terms_on(self, views: Views) -> Terms:
        student, teacher = views.student_adversarial, views.teacher_adversarial
        trust = _trust(teacher, views.y, self.beta if views.progress >= self.begin else 0.0)
        guided = kl_distill(student, teacher, temperature=self.temperature, weight=trust)
        own = _introspection(views, self.beta, begin=self.begin, detach_clean=self.detach_clean)
        hard = views.cross_entropy(student)
        loss = (1 - self.teacher_weight - self.standard_weight) * hard
        loss = loss + self.teacher_weight * (guided + self.temperature**2 * own)
        terms = {"teacher": guided.detach(), "self": own.detach(), "ce": hard.detach()}
        standard = self._standard_teacher()
        if standard is None:
            return {"loss": loss, **terms}
        answer = teacher_logits(self, standard, views.as_input(views.adversarial))
        plain = kl_distill(student, answer, temperature=self.temperature)
        return {"loss": loss + self.standard_weight * plain, **terms, "standard": plain.detach()}

    def _standard_teacher(self) -> Network | None:
        """Return U. Raises ValueError where it has a weight and is not there."""
        (standard,) = self._standard
        if standard is None and self.standard_weight:
            raise ValueError(f"standard_weight must be 0 without a standard_teacher, got {self.standard_weight}")
        return standard

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, teacher_weight={self.teacher_weight}, "
            f"standard_weight={self.standard_weight}, beta={self.beta}, begin={self.begin}, "
            f"detach_clean={self.detach_clean}, {super().extra_repr()}"
        )


class AdaIAD(AdaAD):
    """AdaAD with the student's own answer where the teacher is wrong.

    ``L = T^2 KL(p_T(x') || p_S(x')) + (1 - A) KL(p_S(x) || p_S(x'))`` with x' of :class:`AdaAD` and the trust A of
    :class:`IAD`; the second divergence has temperature 1, and starts once ``begin`` of the training is done.

    Args:
        temperature: T > 0.
        beta, begin, detach_clean: see :class:`IAD`.
        inner: see :class:`AdaAD`.
        eps, step_size, steps, attack_mode, clean_forward: see :class:`RobustMethod`; the teacher is in eval mode.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Huang et al., "Boosting accuracy and robustness of student models via adaptive adversarial distillation",
    CVPR 2023, and its released code.
    """

    follows_progress = True

    def __init__(
        self,
        temperature: float = 30.0,
        *,
        beta: float = 0.1,
        begin: float = 0.3,
        detach_clean: bool = False,
        inner: str = "both",
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        steps: int = 10,
        attack_mode: str = "eval",
        clean_forward: bool = False,
    ) -> None:
        super().__init__(
            inner=inner, eps=eps, step_size=step_size, steps=steps, attack_mode=attack_mode, clean_forward=clean_forward
        )
        self.needs_labels = True
        self.temperature = checks.positive("temperature", temperature)
        self.beta = checks.not_negative("beta", beta)
        self.begin = share_of_training("begin", begin)
        self.detach_clean = checks.flag("detach_clean", detach_clean)

    def terms_on(self, views: Views) -> Terms:
        guided = kl_distill(views.student_adversarial, views.teacher_adversarial, temperature=self.temperature)
        own = _introspection(views, self.beta, begin=self.begin, detach_clean=self.detach_clean)
        return {"loss": guided + own, "teacher": guided.detach(), "self": own.detach()}

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, beta={self.beta}, begin={self.begin}, "
            f"detach_clean={self.detach_clean}, {super().extra_repr()}"
        )


def _introspection(views: Views, beta: float, *, begin: float, detach_clean: bool) -> Tensor:
    """Return ``(1 - A) KL(p_S(x) || p_S(x'))``, the mean over the batch; zero before ``begin``."""
    if views.progress < begin:
        return torch.zeros([], device=views.x.device)
    clean = views.student_clean.detach() if detach_clean else views.student_clean
    return kl_distill(views.student_adversarial, clean, weight=1 - _trust(views.teacher_adversarial, views.y, beta))


def _trust(teacher: Tensor, y: Tensor, beta: float) -> Tensor:
    """Return ``p_T(y)^beta`` [N], of the teacher's logits."""
    return accumulate(teacher).softmax(1).gather(1, y[:, None]).squeeze(1).pow(beta)
