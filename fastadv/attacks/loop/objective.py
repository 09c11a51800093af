"""The objective of an attack: a value a row, and its gradient w.r.t. the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastadv.attacks.loop.rows import repeat_rows
from fastadv.attacks.model.networks import Networks
from fastadv.ops import checks
from fastadv.ops.attack_loss import attack_loss, attack_loss_value_and_grad

Loss = str | Callable[[Any], Tensor]
_NAMED = ("ce", "kl", "dlr", "cw")


class Goal(NamedTuple):
    """The aim of an attack, in the caller's words.

    y: classes [N] of all losses but "kl"; None is the network's own clean prediction.
    loss: "ce", "kl", "dlr", "cw", or a callable from the logits (the tuple of them, for a sequence of networks) to
        [rows].
    reference: logits [N, C] of "kl", true classes [N] of "dlr" where targeted; None is the network's own clean logits
        or prediction.
    targeted: descend instead.
    """

    y: Tensor | None = None
    loss: Loss = "ce"
    reference: Tensor | None = None
    targeted: bool = False


def check_loss(loss: Loss) -> None:
    """Raise ValueError unless ``loss`` is a callable or the name of a loss."""
    if not callable(loss) and loss not in _NAMED:
        raise ValueError(f"loss must be one of {', '.join(map(repr, _NAMED))} or a callable, got {loss!r}")


class Objective:
    """The loss of ``networks`` on ``copies`` copies of each clean image of ``x`` [N, ...], never averaged over rows.

    Raises TypeError and ValueError for an unknown loss, a named loss of several networks, and a y or reference that is
    not what the loss asks for.
    """

    def __init__(self, networks: Networks, x: Tensor, goal: Goal, copies: int = 1) -> None:
        y, loss, reference, targeted = goal
        self._networks = networks
        self._loss = loss
        self._targeted = checks.flag("targeted", targeted)
        check_loss(loss)
        if reference is not None and not (loss == "kl" or (loss == "dlr" and targeted)):
            raise ValueError('reference must be None for any loss but "kl" and a targeted "dlr", which alone read it')
        if callable(loss):
            return
        if networks.together:
            raise ValueError(f"loss must be a callable of the tuple of logits for a sequence of networks, got {loss!r}")
        self._keywords: dict[str, Any] = {"kind": loss, "targeted": targeted}
        if loss != "kl":
            self._keywords["target"] = repeat_rows(_classes("y", y, networks, x), copies)
            if loss == "dlr" and targeted:
                self._keywords["reference"] = repeat_rows(_classes("reference", reference, networks, x), copies)
        else:
            reference = _clean_logits(networks, x) if reference is None else reference
            checks.logits("reference", reference)
            checks.same_batch("reference", reference, "x", x)
            self._keywords["reference"] = repeat_rows(reference.detach(), copies)

    def value(self, x: Tensor) -> Tensor:
        """Return the values [rows] at ``x`` [rows, ...], detached."""
        with torch.no_grad():
            if callable(self._loss):
                return self._called(self._networks(x))
            return attack_loss(self._networks.logits(x), **self._keywords)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values [rows] at ``x`` [rows, ...] and the gradient of their sum w.r.t. x, detached."""
        x = x.detach().requires_grad_()
        if callable(self._loss):
            value = self._called(self._networks(x))
            return value.detach(), gradient(value, x, torch.ones_like(value))
        logits = self._networks.logits(x)
        value, grad_logits = attack_loss_value_and_grad(logits, **self._keywords)
        return value, backprop_to_input(logits, x, grad_logits)

    def _called(self, logits: tuple[Tensor, ...]) -> Tensor:
        assert callable(self._loss)
        value = self._loss(logits if self._networks.together else logits[0])
        rows = logits[0].shape[0]
        if not isinstance(value, Tensor) or value.shape != (rows,):
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss must give one value a row, a tensor [{rows}], got {shape}")
        return -value if self._targeted else value


def backprop_to_input(logits: Tensor, x: Tensor, grad_logits: Tensor) -> Tensor:
    """Return the gradient w.r.t. ``x``, given that w.r.t. ``logits`` in float32 or float64."""
    if logits.dtype is not torch.float16:
        return gradient(logits, x, grad_logits.to(logits.dtype))
    # float16 holds nothing below 6e-8, where the gradient of a saturated sample lies: each row goes through the network
    # with its largest entry near one, scaled by a power of two that is taken back in float32. Rows do not interact.
    exponent = torch.frexp(grad_logits.abs().amax(1)).exponent.clamp(min=-126)
    grad = gradient(logits, x, torch.ldexp(grad_logits, -exponent[:, None]).half())
    return torch.ldexp(grad, exponent.view(-1, *[1] * (x.dim() - 1)))


def gradient(output: Tensor, x: Tensor, grad_output: Tensor) -> Tensor:
    """Return the gradient w.r.t. ``x``, given that w.r.t. ``output``; ValueError where output does not come from x."""
    grad = None
    if output.requires_grad:
        (grad,) = torch.autograd.grad(output, x, grad_outputs=grad_output, allow_unused=True)
    if grad is None:
        raise ValueError("model and loss must be differentiable by the images, got an output detached from them")
    return grad


def _classes(name: str, classes: Tensor | None, networks: Networks, x: Tensor) -> Tensor:
    """Return ``classes`` [N] of the images ``x``, those that the network itself predicts for None."""
    if classes is None:
        return _clean_logits(networks, x).argmax(1)
    checks.int64(name, classes, [x.shape[0]], x)
    return classes


def _clean_logits(networks: Networks, x: Tensor) -> Tensor:
    with torch.no_grad():
        return networks.logits(x)
