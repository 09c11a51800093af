"""The losses as modules, for training loops that build a criterion once and call it.

Settings are checked when a module is built and may be changed later as attributes. Inputs, results, dtypes, gradients
and errors of a call are those of the function that each module names. No module has state: state dicts are empty.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from fastadv.ops import checks
from fastadv.ops.divergence import DIRECTIONS, dkd_loss, js_distill, kd_loss, kl_distill
from fastadv.ops.loss import REDUCTIONS
from fastadv.ops.matching import activation_boundary_loss, igdm_loss, loss_matching
from fastadv.ops.metric import triplet_margin_loss
from fastadv.ops.rkd import rkd_loss

__all__ = [
    "ActivationBoundaryLoss",
    "DKDLoss",
    "IGDMLoss",
    "JSDistillLoss",
    "KDLoss",
    "KLDistillLoss",
    "LossMatchingLoss",
    "RKDLoss",
    "TripletMarginLoss",
]


class _Module(torch.nn.Module):
    """``__constants__`` are the settings that the representation shows, ``_rare`` those it shows where they differ."""

    __constants__: tuple[str, ...] = ()
    _rare: ClassVar[dict[str, Any]] = {}

    def extra_repr(self) -> str:
        rare = (name for name, default in self._rare.items() if getattr(self, name) != default)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self.__constants__, *rare))


class _Loss(_Module):
    """A loss with a reduction."""

    __constants__: tuple[str, ...] = ("reduction",)

    def __init__(self, reduction: str) -> None:
        super().__init__()
        checks.choice("reduction", reduction, REDUCTIONS)
        self.reduction = reduction


class KLDistillLoss(_Loss):
    """Knowledge distillation: :func:`fastadv.kl_distill`.

    Replaces, in one line::

        nn.KLDivLoss(reduction="batchmean")(F.log_softmax(s / T, 1), F.softmax(t / T, 1)) * T * T
        KLDistillLoss(T)(s, t)
    """

    __constants__ = ("temperature", "reduction")
    _rare: ClassVar[dict[str, Any]] = {"direction": "forward", "class_dim": None}

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        reduction: str = "batchmean",
        direction: str = "forward",
        class_dim: int | None = None,
    ) -> None:
        super().__init__(reduction)
        self.temperature = checks.temperature(temperature)
        checks.choice("direction", direction, DIRECTIONS)
        self.direction = direction
        self.class_dim = checks.integer_or_none("class_dim", class_dim)

    def forward(self, student: Tensor, teacher: Tensor, *, weight: float | Tensor | None = None) -> Tensor:
        """Return the loss of logits [N, C], with an optional factor or factors [N]."""
        settings: dict[str, Any] = {"temperature": self.temperature, "direction": self.direction}
        settings |= {"reduction": self.reduction, "class_dim": self.class_dim}
        return kl_distill(student, teacher, weight=weight, **settings)


class JSDistillLoss(_Loss):
    """Jensen-Shannon divergence: :func:`fastadv.js_distill`.

    Replaces, with p and q the two softmaxes and ``kl = nn.KLDivLoss(reduction="batchmean")``, in one line::

        (kl(((p + q) / 2).log(), p) + kl(((p + q) / 2).log(), q)) / 2 * T * T
        JSDistillLoss(T)(s, t)
    """

    __constants__ = ("temperature", "reduction")
    _rare: ClassVar[dict[str, Any]] = {"class_dim": None}

    def __init__(self, temperature: float = 1.0, *, reduction: str = "batchmean", class_dim: int | None = None) -> None:
        super().__init__(reduction)
        self.temperature = checks.temperature(temperature)
        self.class_dim = checks.integer_or_none("class_dim", class_dim)

    def forward(self, student: Tensor, teacher: Tensor, *, weight: float | Tensor | None = None) -> Tensor:
        """Return the loss of logits [N, C], with an optional factor or factors [N]."""
        settings: dict[str, Any] = {"reduction": self.reduction, "class_dim": self.class_dim}
        return js_distill(student, teacher, temperature=self.temperature, weight=weight, **settings)


class KDLoss(_Loss):
    """Cross-entropy and distillation: :func:`fastadv.kd_loss`.

    Replaces, with ``kl = nn.KLDivLoss(reduction="batchmean")``, in one line::

        (1 - a) * nn.CrossEntropyLoss()(s, y) + a * kl(F.log_softmax(s / T, 1), F.softmax(t / T, 1)) * T * T
        KDLoss(T, a)(s, t, y)
    """

    __constants__ = ("temperature", "alpha", "reduction")
    _rare: ClassVar[dict[str, Any]] = {"label_smoothing": 0.0, "class_dim": None, "ignore_index": None}

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 0.9,
        *,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        class_dim: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction)
        self.temperature = checks.temperature(temperature)
        self.alpha = checks.number("alpha", alpha)
        self.label_smoothing = checks.share("label_smoothing", label_smoothing)
        self.class_dim = checks.integer_or_none("class_dim", class_dim)
        self.ignore_index = checks.integer_or_none("ignore_index", ignore_index)

    def forward(
        self, student: Tensor, teacher: Tensor, target: Tensor, *, weight: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits [N, C] and classes [N] or their probabilities [N, C], with optional factors."""
        settings: dict[str, Any] = {"temperature": self.temperature, "alpha": self.alpha, "reduction": self.reduction}
        settings |= {name: getattr(self, name) for name in self._rare}
        return kd_loss(student, teacher, target, weight=weight, **settings)


class DKDLoss(_Loss):
    """Decoupled knowledge distillation: :func:`fastadv.dkd_loss`.

    Replaces the function of that name in mdistiller, in one line::

        dkd_loss(s, t, y, alpha, beta, T)
        DKDLoss(T, alpha, beta)(s, t, y)
    """

    __constants__ = ("temperature", "alpha", "beta", "reduction")
    _rare: ClassVar[dict[str, Any]] = {"class_dim": None, "ignore_index": None}

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        *,
        reduction: str = "mean",
        class_dim: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction)
        self.temperature = checks.temperature(temperature)
        self.alpha = checks.number("alpha", alpha)
        self.beta = checks.number("beta", beta)
        self.class_dim = checks.integer_or_none("class_dim", class_dim)
        self.ignore_index = checks.integer_or_none("ignore_index", ignore_index)

    def forward(
        self, student: Tensor, teacher: Tensor, target: Tensor, *, weight: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits [N, C] and classes [N], with optional factors [N]."""
        settings: dict[str, Any] = {"temperature": self.temperature, "alpha": self.alpha, "beta": self.beta}
        settings |= {"reduction": self.reduction} | {name: getattr(self, name) for name in self._rare}
        return dkd_loss(student, teacher, target, weight=weight, **settings)


class IGDMLoss(_Loss):
    """Indirect gradient matching: :func:`fastadv.igdm_loss`.

    Replaces, with ``kl = nn.KLDivLoss(reduction="batchmean")``, in one line::

        kl(F.log_softmax(s_plus - s_minus, 1), F.softmax(t_plus - t_minus, 1))
        IGDMLoss()(s_plus, s_minus, t_plus, t_minus)
    """

    _rare: ClassVar[dict[str, Any]] = {"class_dim": None}

    def __init__(self, *, reduction: str = "batchmean", class_dim: int | None = None) -> None:
        super().__init__(reduction)
        self.class_dim = checks.integer_or_none("class_dim", class_dim)

    def forward(
        self,
        student_plus: Tensor,
        student_minus: Tensor,
        teacher_plus: Tensor,
        teacher_minus: Tensor,
        *,
        weight: float | Tensor | None = None,
    ) -> Tensor:
        """Return the loss of logits [N, C] at x + d and x - d, with optional factors [N]."""
        logits = (student_plus, student_minus, teacher_plus, teacher_minus)
        return igdm_loss(*logits, weight=weight, reduction=self.reduction, class_dim=self.class_dim)


class LossMatchingLoss(_Loss):
    """Squared gap of two cross-entropies: :func:`fastadv.loss_matching`.

    Replaces, with ``ce = nn.CrossEntropyLoss(reduction="none")``, in one line::

        nn.MSELoss()(ce(s, y), ce(t, y))
        LossMatchingLoss()(s, t, y)
    """

    _rare: ClassVar[dict[str, Any]] = {"class_dim": None, "ignore_index": None}

    def __init__(
        self, *, reduction: str = "mean", class_dim: int | None = None, ignore_index: int | None = None
    ) -> None:
        super().__init__(reduction)
        self.class_dim = checks.integer_or_none("class_dim", class_dim)
        self.ignore_index = checks.integer_or_none("ignore_index", ignore_index)

    def forward(
        self, student: Tensor, teacher: Tensor, target: Tensor, *, weight: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of logits [N, C] and classes [N], with optional factors [N]."""
        settings: dict[str, Any] = {"reduction": self.reduction} | {name: getattr(self, name) for name in self._rare}
        return loss_matching(student, teacher, target, weight=weight, **settings)


class TripletMarginLoss(_Loss):
    """Hinge on two distances: :func:`fastadv.triplet_margin_loss`, with the constructor of PyTorch's.

    Replaces, in one line::

        nn.TripletMarginLoss(margin, p, eps, swap)(a, p, n)
        TripletMarginLoss(margin, p, eps, swap)(a, p, n)

    ``size_average`` and ``reduce`` are PyTorch's deprecated names of reductions.
    """

    __constants__ = ("margin", "p", "eps", "swap", "reduction")

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        if size_average is not None or reduce is not None:
            reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
        super().__init__(reduction)
        self.margin = checks.positive("margin", margin)
        self.p = checks.not_negative("p", p)
        self.eps = checks.number("eps", eps)
        self.swap = checks.flag("swap", swap)

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss of features [N, D], or of shapes that broadcast as in PyTorch."""
        settings = {"margin": self.margin, "p": self.p, "eps": self.eps}
        return triplet_margin_loss(anchor, positive, negative, **settings, swap=self.swap, reduction=self.reduction)


class RKDLoss(_Module):
    """Relational knowledge distillation: :func:`fastadv.rkd_loss`.

    Replaces RepDistiller's module of that name, in one line::

        RKDLoss(w_d, w_a)(f_s, f_t)
        RKDLoss(w_d, w_a)(f_s, f_t)
    """

    __constants__ = ("distance_weight", "angle_weight")

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight = checks.number("distance_weight", distance_weight)
        self.angle_weight = checks.number("angle_weight", angle_weight)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of features [B, D], the teacher's of a width of its own and without gradient."""
        return rkd_loss(student, teacher, distance_weight=self.distance_weight, angle_weight=self.angle_weight)


class ActivationBoundaryLoss(_Loss):
    """Activation boundaries: :func:`fastadv.activation_boundary_loss`.

    Replaces, of one layer, in one line::

        ((s + m) ** 2 * ((s > -m) & (t <= 0)) + (s - m) ** 2 * ((s <= m) & (t > 0))).sum() / len(s)
        ActivationBoundaryLoss(m)(s, t)
    """

    __constants__ = ("margin", "reduction")

    def __init__(self, margin: float = 1.0, *, reduction: str = "batchmean") -> None:
        super().__init__(reduction)
        self.margin = checks.not_negative("margin", margin)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of pre-activations [N, ...]."""
        return activation_boundary_loss(student, teacher, margin=self.margin, reduction=self.reduction)
