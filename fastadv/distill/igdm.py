"""Indirect gradient matching on top of a robust method: IGDM."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastadv.attacks.loop.arguments import as_float32
from fastadv.attacks.methods.fgsm import fgsm
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Networks
from fastadv.distill.adaad import AdaAD
from fastadv.distill.method import Batch, Method, Network, Terms
from fastadv.distill.parts.robust import RobustMethod
from fastadv.distill.parts.teacher import required
from fastadv.numerics import accumulate
from fastadv.ops import checks
from fastadv.ops.ball import random_start
from fastadv.ops.matching import igdm_loss

_RAMPS = {name: name for name in ("linear", "none")}

_LINEAR_ENOUGH = 0.5


class IGDM(Method):
    """A robust method whose student also changes along the attack as its teacher does.

    ``L = base + alpha r KL(softmax(T(x + beta d) - T(x - gamma d)) || softmax(S(x + beta d) - S(x - gamma d)))``

    with ``d = x' - x`` for the adversarial images x' of the base method, the mean over the batch, and the ramp r: the
    share of training that is done, or 1. Near a point where both networks are linear the differences of their logits
    are derivatives along d, so that this matches input gradients without differentiating twice. x - gamma d may leave
    the box. The forwards are the base's and, of each network, one or (where beta is not 1) two more.

    A teacher that is not adversarially trained is not linear over such distances, and its differences are far too
    large: at alpha 20 such a teacher has been reported to bring the student down to guessing. ``build`` measures
    :func:`remainder` over the base's radius and, where it is above 0.5, warns and says so in ``notes``. At 8/255 on
    CIFAR-100 it is 7.5 for a plainly trained resnet56, 6.0 for such a resnet20, 0.12 for a resnet8 that was trained
    adversarially. The paper's own measure, :func:`remainder_proportion`, is far milder: 0.012 for its teachers.

    Published with the schedule epoch / epochs from epoch 1, which is this ramp up to half an epoch. The paper searches
    alpha for each base, teacher and student: on CIFAR-100 with ResNet-18 from 3 (RSLAD, whose published loss is a tenth
    of the one here) to 220 (PGD-AT), 15 to 70 over AdaAD; the released scripts have 20 throughout.

    Args:
        base: the robust method; None is ``AdaAD()``.
        alpha: of the matching term.
        ramp: "linear" or "none".
        beta, gamma: how far along d the networks are compared, forwards and backwards.

    Terms: those of the base, "base", its loss, and "igdm", the matching term before its weight.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range or an unknown name.

    Source: Lee, Cho, Kim, "Indirect gradient matching for adversarial robust distillation", ICLR 2025, and its released
    code. :func:`remainder` is this library's measure.
    """

    needs_teacher = True
    follows_progress = True
    attacks = True
    default_base = AdaAD

    def __init__(
        self,
        base: RobustMethod | None = None,
        *,
        alpha: float = 20.0,
        ramp: str = "linear",
        beta: float = 1.0,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        if base is not None and not isinstance(base, RobustMethod):
            raise TypeError(f"base must be a robust method such as AdaAD, got {type(base).__name__}")
        self.base = self.default_base() if base is None else base
        self.needs_labels = self.base.needs_labels
        self.alpha = checks.number("alpha", alpha)
        self.ramp = checks.choice("ramp", ramp, _RAMPS)
        self.beta = checks.number("beta", beta)
        self.gamma = checks.number("gamma", gamma)

    def build(self, student: nn.Module, teacher: nn.Module | None, x: Tensor, *, images: int) -> None:
        self.base.build(student, teacher, x, images=images)
        self.notes = ()
        try:
            measured = remainder(required(self, teacher), x, eps=self.base.eps).item()
        except RuntimeError as error:  # an operation of the teacher without a second derivative
            self._say(f"how linear the teacher is could not be measured: {str(error).splitlines()[0]}")
            return
        if not measured <= _LINEAR_ENOUGH:
            self._say(
                f"the teacher is not locally linear, as an adversarially trained one is: {measured:.2f} of its change "
                f"at eps {self.base.eps:.4g} is not explained by its gradient, more than {_LINEAR_ENOUGH}; "
                "train the teacher adversarially, or lower alpha"
            )

    def _say(self, note: str) -> None:
        self.notes = (note,)
        warnings.warn(f"IGDM: {note}", stacklevel=3)

    def start_epoch(self, student: nn.Module) -> None:
        self.base.start_epoch(student)

    def forward(self, student: Network, teacher: Network | None, batch: Batch) -> Terms:
        views = self.base.views(student, required(self, teacher), batch)
        terms = self.base.terms(views)
        along = views.adversarial - views.x
        behind = views.x - self.gamma * along
        if self.beta == 1:
            ahead_of_student, ahead_of_teacher = views.student_adversarial, views.teacher_adversarial
        else:
            ahead = views.x + self.beta * along
            ahead_of_student, ahead_of_teacher = views.student_logits(ahead), views.teacher_logits(ahead)
        behind_of_student, behind_of_teacher = views.student_logits(behind), views.teacher_logits(behind)
        matching = igdm_loss(ahead_of_student, behind_of_student, ahead_of_teacher, behind_of_teacher)
        weight = self.alpha * (batch.progress_for(self) if self.ramp == "linear" else 1.0)
        loss = terms["loss"] + weight * matching
        return {**terms, "loss": loss, "base": terms["loss"].detach(), "igdm": matching.detach()}

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, ramp={self.ramp!r}, beta={self.beta}, gamma={self.gamma}"


def remainder(network: Network, x: Tensor, *, eps: float) -> Tensor:
    """Return the share of the change of a network's logits that its gradient leaves unexplained: a scalar.

    ``median over images of |f(x + d) - f(x) - J d|_2 / |f(x + d) - f(x)|_2``

    with the Jacobian J of the logits f at x and the step d of linf length ``eps`` that lowers the margin of f's own
    prediction most to first order, in the box; zero for a linear network. The network runs in eval mode and is left as
    it was.

    Args:
        network: from images to logits [N, C].
        x: images [N, ...] in [0, 1], floating point.
        eps: radius in the units of x.

    Raises as :func:`fastadv.attacks.fgsm`.
    """
    x = as_float32(x)
    before, slope, after = _expanded(network, x, fgsm(network, x, eps=eps, loss="cw"))
    change = after - before
    return ((change - slope).norm(dim=1) / change.norm(dim=1)).nanmedian()


def remainder_proportion(network: Network, x: Tensor, *, eps: float, seed: int = 0) -> Tensor:
    """Return the paper's measure of how far a network is from linear: a scalar.

    ``mean over images of |f(x + e) - f(x) - J e|_2 / |f(x + e)|_2``

    with noise e, uniform in the linf ball of radius ``eps``, which may leave the box. The noise is not adversarial and
    the denominator is the whole output, so that it is far smaller than :func:`remainder`: the paper has 0.012 for the
    teachers LTD and BDM-AT and 0.016 for IKL-AT, at 8/255 on CIFAR-100. The network runs in eval mode and is left as it
    was.

    Args:
        network: from images to logits [N, C].
        x: images [N, ...], floating point.
        eps: radius in the units of x.
        seed: of the noise.

    Source: Lee, Cho, Kim, "Indirect gradient matching for adversarial robust distillation", ICLR 2025, section 3.1.
    """
    x = as_float32(x)
    before, slope, after = _expanded(network, x, random_start(x, eps=eps, bounds=None, seed=seed))
    return ((after - before - slope).norm(dim=1) / after.norm(dim=1)).mean()


def _expanded(network: Network, x: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits [N, C] at ``x``, their first-order change to ``moved``, and the logits there."""
    networks = Networks(network)
    # Of the kernels for attention only the plain one has the second derivative that a product with J takes.
    with no_trace(networks.members), sdpa_kernel(SDPBackend.MATH):
        before, slope = torch.autograd.functional.jvp(networks.logits, x, moved - x)
    with no_trace(networks.members), torch.no_grad():
        after = networks.logits(moved)
    return accumulate(before), accumulate(slope), accumulate(after)
