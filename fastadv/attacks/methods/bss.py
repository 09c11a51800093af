"""Samples that support a decision boundary: bss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastadv.attacks.configured import Attack
from fastadv.attacks.loop.arguments import clean_images, step_count
from fastadv.attacks.loop.ascent import Evaluation, ascend
from fastadv.attacks.loop.objective import backprop_to_input
from fastadv.attacks.model import values
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.ops import checks
from fastadv.ops.attack_loss import attack_loss_value_and_grad
from fastadv.ops.step import bss_stepper


@answers_near_misses
def bss(
    model: Network | Sequence[Network],
    x: Tensor,
    target: Tensor,
    *,
    steps: int | Tensor = 10,
    step_size: float | Tensor = 0.3,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    stop_early: bool | None = None,
    check: bool | None = None,
) -> Tensor:
    """Boundary supporting samples: x moved from its own class towards ``target``, until it has just left its class.

        ``x <- clamp(x + step_size (z_b - z_k + 1e-4) g / |g|_2)``,  ``g = grad_x (z_k - z_b)``

    with the logits z, the class b that the model predicts for the clean x, fixed at the first step, and the target k. A
    sample stays where it is from the first iterate at which the model predicts another class than b, k or not, on. One
    whose target is b does not move. There is no ball: the box alone bounds how far a sample moves. Nothing of the
    caller's changes, see :func:`pgd`.

    The published code works on normalised pixels with a clamp to +-2.5. In pixels, with normalisation as the model's
    first layer, a step of the same effect is shorter: by the factor std where that is one number.

    Args:
        model: one network, see :func:`pgd`.
        x: images [N, ...], float64, float32, bfloat16 or float16.
        target: the classes to be reached [N], int64, for example from :func:`bss_targets`. On the CPU a value outside
            [0, C) is an error, on a device its sample does not move.
        steps: how often to step at most, an int or int64 [N] on the CPU.
        step_size: the length of a step as a share of the gap between the two logits, a float or [N].
        bounds: (low, high), or None for no box.
        stop_early: ask at each step whether any sample is left to move, and end where there is none, as the published
            code does: the same images, sooner where all leave their class soon. Asking waits for the device, and such a
            loop cannot be captured or compiled whole; None asks on a CPU alone, where nothing waits.
        check: see :func:`pgd`.

    Returns:
        The moved images, detached, of the shape of x; float32, or float64 for a float64 x.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape, device or value is wrong, model is a sequence.

    Source: Heo, Lee, Yun, Choi, "Knowledge distillation with adversarial samples supporting decision boundary", AAAI
    2019, as its released code has it.
    """
    networks = Networks(model, check)
    if networks.together:
        raise ValueError("model must be one network, got a sequence")
    x = clean_images(x, bounds, check)
    schedule = step_count(steps, x)
    move = bss_stepper(x, step_size=step_size, bounds=bounds)
    checks.int64("target", target, [x.shape[0]], x)
    asks = values.readable(x, None) if stop_early is None else checks.flag("stop_early", stop_early)
    gap = _Gap(networks, target, stop_early=asks)
    with no_trace(networks.members):
        return ascend(
            gap,
            x.clone(),
            lambda x, grad: move(x, grad, gap.width, gap.active),
            schedule,
            finished=lambda: gap.closed,
        )


class BSS(Attack, function=bss, own_checks={"stop_early": checks.flag}):
    """:func:`fastadv.attacks.bss`, configured once: ``BSS(steps=5)(model, x, target)``."""


class _Gap:
    """The logit of the target less that of the class predicted at the first images it sees.

    Attributes:
        width: the negative of that at the last images [N].
        active: whether the model has predicted the same class at all images so far, and the target is another [N].
        closed: whether no sample is active; False where that is not asked for, since asking waits for the device.
    """

    width: Tensor
    active: Tensor

    def __init__(self, networks: Networks, target: Tensor, *, stop_early: bool) -> None:
        self.closed = False
        self._networks = networks
        self._target = target
        self._stop_early = stop_early
        self._base: Tensor | None = None

    def evaluate(self, x: Tensor) -> Evaluation:
        x = x.detach().requires_grad_()
        logits = self._networks.logits(x)
        # As long as the base class is predicted, it is the class of the largest logit beside the target's.
        value, grad_logits = attack_loss_value_and_grad(logits, self._target, kind="cw", targeted=True)
        predicted = logits.detach().argmax(1)
        if self._base is None:
            self._base = predicted
            self.active = predicted != self._target
        self.active = self.active & (predicted == self._base)
        self.width = -value
        self.closed = self._stop_early and not self.active.any()
        return Evaluation(value, torch.zeros_like(x) if self.closed else backprop_to_input(logits, x, grad_logits))
