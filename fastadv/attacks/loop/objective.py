"""The objective of an attack: a value a row, and its gradient w.r.t. the images."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from fastadv.attacks.loop.arguments import count
from fastadv.attacks.loop.ascent import Evaluation
from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.model.networks import KeepMode, Networks, two_classes
from fastadv.near_misses import did_you_mean
from fastadv.numerics import accumulate, per_sample
from fastadv.ops import checks
from fastadv.ops.attack_loss import attack_loss, attack_loss_value_and_grad

Loss = str | Callable[..., Tensor]
_NAMED = ("ce", "kl", "dlr", "cw")


class Goal(NamedTuple):
    """The aim of an attack, in the caller's words.

    y: classes [N] of the losses "ce", "cw" and "dlr", None being the network's own clean prediction; for a callable of
        logits and y a tensor [N, ...].
    loss: "ce", "kl", "dlr", "cw", or a callable that gives [rows] for the network's output (the tuple of outputs, for a
        sequence of networks) and, where y is given, for y.
    reference: logits [N, C] of "kl", true classes [N] of "dlr" where targeted; None is the network's own clean logits
        or prediction.
    targeted: descend instead.
    eot: forwards over which values and gradients are averaged.
    """

    y: Tensor | None = None
    loss: Loss = "ce"
    reference: Tensor | None = None
    targeted: bool = False
    eot: int = 1

    @property
    def is_flat_at_x(self) -> bool:
        """The loss compares with the network's answer on the clean image, where it has no gradient."""
        return self.loss == "kl" and self.reference is None

    @property
    def may_be_flat_at_x(self) -> bool:
        """The reference may be the network's answer on the clean image."""
        return self.loss == "kl" and self.reference is not None and not self.targeted

    def check(self) -> None:
        """Raise TypeError or ValueError for an unknown loss, and for y or reference that it lacks or does not read."""
        y, loss, reference, targeted, eot = self
        checks.flag("targeted", targeted)
        count("eot", eot, 1)
        check_loss(loss)
        if reference is not None and not (loss == "kl" or (loss == "dlr" and targeted)):
            raise ValueError('reference must be None for any loss but "kl" and a targeted "dlr", which alone read it')
        if callable(loss):
            _check_arguments(loss, y)
        elif loss == "kl":
            if y is not None:
                raise ValueError('y must be None for loss "kl", which compares with the reference and reads no classes')
            if targeted and reference is None:
                raise ValueError('reference must be given for a targeted "kl": the logits to be reached')
        elif targeted and y is None:
            raise ValueError("y must be given for targeted=True: the classes to be reached")


def check_loss(loss: Loss) -> None:
    """Raise ValueError unless ``loss`` is a callable or the name of a loss."""
    if not callable(loss) and loss not in _NAMED:
        names = ", ".join(map(repr, _NAMED))
        raise ValueError(f"loss must be one of {names} or a callable, got {loss!r}{did_you_mean(loss, _NAMED)}")


def least_classes(loss: Loss, targeted: bool) -> int:
    """Return how many classes ``loss`` needs: as many as it ranks, two at least."""
    return 2 if loss != "dlr" else 4 if targeted else 3


def check_ranks(loss: Loss, targeted: bool, classes: int) -> None:
    """Raise ValueError where ``loss`` ranks more classes than the model has."""
    needed = least_classes(loss, targeted)
    if loss == "dlr" and classes < needed:
        kind = 'a targeted "dlr"' if targeted else '"dlr"'
        raise ValueError(f"loss must not be {kind} for a model of {classes} classes: it needs {needed} or more")


def reads_classes(loss: Loss) -> bool:
    """Return whether ``loss`` looks at y: a named one other than "kl", or a callable of two arguments."""
    return _takes(loss)[1] if callable(loss) else loss != "kl"


class Objective:
    """The loss of ``networks`` on ``copies`` copies of each clean image of ``x`` [N, ...], never averaged over rows.

    "ce" stands for the log-odds ``v = logsumexp_{j != y} z_j - z_y`` of being wrong: the cross-entropy is ``log(1 + exp
    v)``, so that both rise together and their gradients have one direction, but that of v does not underflow where the
    network is sure of y. For the same reason the gradient of "kl" is that of :func:`divergence_direction`. A network
    that keeps its mode may be in train mode, where the rows of a batch share statistics and the direction of the sum
    over them is that of its own terms: there "ce" and "kl" are the losses themselves.

    scaled: tell the scale of "ce" and "kl" too, for those to whom the direction of the gradient is not all.
    mask: the elements whose gradient counts, bool, broadcast to the rows; elsewhere it is zero.
    judged: tell which rows have reached the goal: are not of class y (of the reference's class for "kl") any more, or
        are where targeted. A callable loss does not say.

    Raises TypeError and ValueError as :meth:`Goal.check`, for a named loss of several networks, for a y or reference
    that does not fit x, and for a reference that is not finite.
    """

    def __init__(
        self,
        networks: Networks,
        x: Tensor,
        goal: Goal,
        copies: int = 1,
        *,
        judged: bool = False,
        scaled: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        goal.check()
        y, loss, reference, targeted, _ = goal
        self._networks, self._copies, self._mask = networks, copies, mask
        self._loss, self._targeted = loss, targeted
        self._classes: Tensor | None = None
        self._scaled = scaled
        if callable(loss):
            if y is not None:
                checks.same_batch("y", _tensor("y", y), "x", x)
            self._labels = () if y is None else (repeat_rows(y, copies),)
            return
        if networks.together:
            raise ValueError(f"loss must be a callable of the tuple of logits for a sequence of networks, got {loss!r}")
        by_rows = not any(isinstance(member, KeepMode) for member in networks.members)
        # Of "ce" and "kl" the gradient to a positive factor a row.
        self._to_a_factor = loss if by_rows and loss in ("ce", "kl") else None
        kind = "log_odds" if self._to_a_factor == "ce" else loss
        self._keywords: dict[str, Any] = {"kind": kind, "targeted": targeted}
        if loss == "kl":
            reference = _clean_logits(networks, x) if reference is None else reference
            checks.logits("reference", reference)
            checks.same_batch("reference", reference, "x", x)
            networks.check_finite("reference", reference)
            # A network may give the same buffer at each call.
            reference = reference.detach().clone() if copies == 1 else repeat_rows(reference.detach(), copies)
            self._keywords["reference"] = reference if reference.shape[1] > 1 else two_classes(reference)
            classes = self._keywords["reference"].argmax(1)
        else:
            classes = self._keywords["target"] = repeat_rows(_classes_of("y", y, networks, x), copies)
            if loss == "dlr" and targeted:
                self._keywords["reference"] = repeat_rows(_classes_of("reference", reference, networks, x), copies)
        if judged:
            self._classes = classes

    def evaluate(self, x: Tensor) -> Evaluation:
        """Return the values at ``x`` [rows, ...], the gradient of their sum w.r.t. x, and the rows at the goal."""
        x = x.detach().requires_grad_()
        if callable(self._loss):
            value, reached, log_scale = self._called(x), None, None
            grad = gradient(value, x, torch.ones_like(value))
        else:
            logits = self._networks.logits(x, self._copies)
            try:
                value, grad_logits, log_scale = self._by_logits(logits)
            except ValueError as error:
                raise self._in_arguments(error, logits) from None
            grad, reached = backprop_to_input(logits, x, grad_logits), self._reached(logits)
        grad = grad if self._mask is None else torch.where(self._mask, grad, 0.0)
        return Evaluation(value.detach(), grad, reached, log_scale)

    def flat_rows(self, x: Tensor) -> Tensor:
        """Return the rows of ``x`` [rows, ...] at which the network's answer is the reference itself, for "kl"."""
        with torch.no_grad():
            return (self._networks.logits(x, self._copies) == self._keywords["reference"]).all(1)

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the values [rows] at ``x`` [rows, ...] and the rows that have reached the goal, detached."""
        with torch.no_grad():
            if callable(self._loss):
                return self._called(x), None
            logits = self._networks.logits(x, self._copies)
            try:
                return attack_loss(logits, **self._keywords), self._reached(logits)
            except ValueError as error:
                raise self._in_arguments(error, logits) from None

    def _by_logits(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the values, their gradient w.r.t. the logits [rows, C], and its scale; see :class:`Evaluation`."""
        if self._to_a_factor == "kl":
            logits, sign = logits.detach(), -1.0 if self._targeted else 1.0
            value = attack_loss(logits, **self._keywords)
            direction, log_scale = divergence_direction(logits, self._keywords["reference"])
            return value, sign * direction, log_scale if self._scaled else None
        value, grad = attack_loss_value_and_grad(logits, **self._keywords)
        if self._to_a_factor is None or not self._scaled:
            return value, grad, None
        return value, grad, logsigmoid(-value if self._targeted else value)

    def _in_arguments(self, error: ValueError, logits: Tensor) -> ValueError:
        """Return ``error``, which the loss has raised for ``logits``, in the names that the caller knows."""
        classes = logits.shape[1]
        try:
            check_ranks(self._loss, self._targeted, classes)
            if "target" in self._keywords:
                checks.target_values(self._keywords["target"], classes, "y")
        except ValueError as named:
            return named
        return error

    def _reached(self, logits: Tensor) -> Tensor | None:
        if self._classes is None:
            return None
        is_class = logits.detach().argmax(1) == self._classes
        return is_class if self._targeted else ~is_class

    def _called(self, x: Tensor) -> Tensor:
        assert callable(self._loss)
        outputs = self._networks(x, self._copies)
        value = self._loss(outputs if self._networks.together else outputs[0], *self._labels)
        rows = x.shape[0]
        if not isinstance(value, Tensor) or value.shape != (rows,):
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            several = f", {self._copies} an image for its restarts or particles" if self._copies > 1 else ""
            raise ValueError(f"loss must give one value a row, a tensor [{rows}]{several}, got {shape}")
        return -value if self._targeted else value


class Averaged:
    """``objective`` with values and gradients averaged over ``forwards`` calls; the majority tells what is reached."""

    def __init__(self, objective: Objective, forwards: int) -> None:
        self._objective = objective
        self._forwards = forwards

    def evaluate(self, x: Tensor) -> Evaluation:
        """Return the mean of :meth:`Objective.evaluate` over the forward passes."""
        value, grad, reached, log_scale = zip(
            *(self._objective.evaluate(x) for _ in range(self._forwards)), strict=True
        )
        if log_scale[0] is None:
            return Evaluation(_mean(value), _mean(grad), _majority(reached))
        scales = torch.stack(log_scale)
        largest = scales.amax(0)
        shares = (scales - largest).exp()
        grad = tuple(per_sample(share, x) * each for share, each in zip(shares, grad, strict=True))
        return Evaluation(_mean(value), _mean(grad), _majority(reached), largest)

    def flat_rows(self, x: Tensor) -> Tensor:
        """Return :meth:`Objective.flat_rows` of one forward pass."""
        return self._objective.flat_rows(x)

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the mean of :meth:`Objective.judge` over the forward passes."""
        value, reached = zip(*(self._objective.judge(x) for _ in range(self._forwards)), strict=True)
        return _mean(value), _majority(reached)


def objective_of(
    networks: Networks,
    x: Tensor,
    goal: Goal,
    copies: int,
    *,
    judged: bool = False,
    scaled: bool = False,
    mask: Tensor | None = None,
) -> Objective | Averaged:
    """Return the :class:`Objective` of an attack, :class:`Averaged` where the goal asks for it."""
    several = goal.eot > 1
    objective = Objective(networks, x, goal, copies, judged=judged, scaled=scaled or several, mask=mask)
    return Averaged(objective, goal.eot) if several else objective


def divergence_direction(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of ``KL(softmax(reference) || softmax(logits))`` w.r.t. the logits, and the logarithm of its scale.

    The gradient, ``softmax(logits) - softmax(reference)``, is divided by the largest probability that either gives to
    a class other than the reference's first, so that nothing underflows where both are sure of that one, whose own
    entry is what makes the row's sum zero.

    Args:
        logits, reference: [N, C], C at least 2.

    Returns:
        The gradient [N, C] and the logarithm [N] of that probability, float64 for float64 logits, else float32.
    """
    first = reference.argmax(1, keepdim=True)
    log_q, log_p = (accumulate(each).log_softmax(1).scatter(1, first, -torch.inf) for each in (logits, reference))
    log_scale = torch.maximum(log_q, log_p).amax(1)
    others = (log_q - log_scale[:, None]).exp() - (log_p - log_scale[:, None]).exp()
    return others.scatter(1, first, -others.sum(1, keepdim=True)), log_scale


def _mean(each: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(each).mean(0)


def _majority(each: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if each[0] is None else _mean(tuple(one.float() for one in each if one is not None)) > 0.5


def backprop_to_input(logits: Tensor, x: Tensor, grad_logits: Tensor) -> Tensor:
    """Return the gradient w.r.t. ``x``, given that w.r.t. ``logits`` in float32 or float64."""
    if logits.dtype is not torch.float16:
        return gradient(logits, x, grad_logits.to(logits.dtype))
    # float16 holds nothing below 6e-8, where the gradient of a saturated sample lies: each row goes through the network
    # with its largest entry near one, scaled by a power of two that is taken back in float32. Rows do not interact.
    exponent = torch.frexp(grad_logits.abs().amax(1)).exponent.clamp(min=-126)
    grad = gradient(logits, x, torch.ldexp(grad_logits, -exponent[:, None]).half())
    return torch.ldexp(grad, exponent.view(-1, *[1] * (x.dim() - 1)))


def gradient(output: Tensor, x: Tensor, grad_output: Tensor, *, again: bool = False) -> Tensor:
    """Return the gradient w.r.t. ``x``, given that w.r.t. ``output``; ValueError where output does not come from x.

    again: another will be asked for.
    """
    grad = None
    if output.requires_grad:
        (grad,) = torch.autograd.grad(output, x, grad_outputs=grad_output, allow_unused=True, retain_graph=again)
    if grad is None:
        raise ValueError("model and loss must be differentiable by the images, got an output detached from them")
    return grad


def _classes_of(name: str, classes: Tensor | None, networks: Networks, x: Tensor) -> Tensor:
    """Return ``classes`` [N] of the images ``x``, those that the network itself predicts for None."""
    if classes is None:
        return _clean_logits(networks, x).argmax(1)
    checks.int64(name, classes, [x.shape[0]], x)
    return classes


def _clean_logits(networks: Networks, x: Tensor) -> Tensor:
    with torch.no_grad():
        return networks.logits(x)


def _tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    return value


def _check_arguments(loss: Callable[..., Tensor], y: Tensor | None) -> None:
    """Raise where ``loss`` would not look at ``y``, or asks for one that is not given."""
    if torch.compiler.is_compiling():
        return
    alone, with_y = _takes(loss)
    if not (alone or with_y):
        raise ValueError(
            "loss must take the output of model, or that and y, and ask for no more, got"
            f" {getattr(loss, '__name__', type(loss).__name__)}{inspect.signature(loss)}"
        )
    if y is not None and not with_y:
        raise ValueError("y must be None for a loss of the logits alone; a loss(logits, y) gets y for every row")
    if y is None and not alone:
        raise ValueError("y must be given for a loss(logits, y): a tensor [N, ...]")


def _takes(loss: Callable[..., Tensor]) -> tuple[bool, bool]:
    """Return whether ``loss`` takes one positional argument, and whether it takes two, no default for either."""
    try:
        parameters = list(inspect.signature(loss).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return True, True
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return True, True
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = sum(each.default is each.empty for each in positional)
    return required <= 1 <= len(positional), required == 2
