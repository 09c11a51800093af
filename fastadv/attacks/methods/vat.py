"""The virtual adversarial perturbation, where a prediction changes most: vat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastadv.attacks.configured import Attack
from fastadv.attacks.loop.arguments import clean_images, step_count
from fastadv.attacks.loop.ascent import Evaluation, ascend
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import gradient
from fastadv.attacks.loop.rows import choose
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.near_misses import answers_near_misses
from fastadv.numerics import accumulate, per_sample, safe_norm
from fastadv.ops import ball, checks


@answers_near_misses
def vat(
    model: Network | Sequence[Network],
    x: Tensor,
    *,
    eps: float | Tensor,
    xi: float = 1e-6,
    steps: int | Tensor = 1,
    bounds: tuple[float, float] | None = None,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    check: bool | None = None,
) -> Tensor:
    """``x + r`` with the virtual adversarial perturbation r, ``|r|_2 = eps``: it needs no label.

    There is no other norm than l2: r points along the dominant eigenvector of the Hessian of ``KL(p(x) || p(x + r))``
    at r = 0, found by power iteration from a random unit d:

        ``d <- unit(grad_d KL(p(x) || p(x + xi d)))``, ``steps`` times, then ``r = eps d``

    The difference p(x + xi d) - p(x) is computed without cancellation, and d is not probed closer than x is resolved:
    xi is at least ``sqrt(machine epsilon of the logits) |x|_2``, the usual choice for a finite difference. In float32
    that is about 1e-2 for a 3x32x32 image, where the published 1e-6 gives mostly rounding noise (measured on a CIFAR
    resnet20: cosine to the float64 direction 0.999, against values from -0.96 to 0.99). In float64 1e-6 stands.

    Nothing of the caller's changes, see :func:`fastadv.attacks.pgd`.

    Args:
        model: one network, see :func:`fastadv.attacks.pgd`.
        x: images [N, ...], float64, float32, bfloat16 or float16.
        eps: l2 length of r in the units of x, a float or [N]; not negative.
        xi: l2 length of the finite difference.
        steps: of the power iteration, an int or int64 [N] on the CPU; 0 is a random direction.
        bounds: (low, high) of a box that x + r is projected to, or None, as published.
        seed, sample_ids: of the first direction, see :func:`fastadv.attacks.pgd`.
        check: see :func:`fastadv.attacks.pgd`.

    Returns:
        x + r, detached, of the shape of x; float32, or float64 for a float64 x.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape, device or value is wrong, model is a sequence; no seed under torch.compile.

    Source: Miyato, Maeda, Koyama, Ishii, "Virtual adversarial training", TPAMI 2018.
    """
    networks = Networks(model, check)
    if networks.together:
        raise ValueError("model must be one network, got a sequence")
    x = clean_images(x, bounds, check)
    schedule = step_count(steps, x)
    checks.radius("eps", eps, x)
    checks.positive("xi", xi)
    with no_trace(networks.members):
        direction = ascend(_Divergence(networks, x, xi), _drawn(x, Noise(seed, sample_ids)), _unit_or_stay, schedule)
        return ball.project(x + per_sample(eps, x) * direction, x, eps=eps, norm="l2", bounds=bounds)


class VAT(Attack, function=vat, own_checks={"xi": checks.positive}):
    """:func:`fastadv.attacks.vat`, configured once: ``VAT(eps=1.0)(model, x)``."""


class _Divergence:
    """``KL(p(x) || p(x + xi d))`` as a function of the directions d [N, ...]."""

    def __init__(self, networks: Networks, x: Tensor, xi: float) -> None:
        self._networks = networks
        self._x = x
        with torch.no_grad():
            clean = networks.logits(x)
        self._clean = accumulate(clean)
        self._probabilities = self._clean.softmax(1)
        self._xi = (safe_norm(x) * torch.finfo(clean.dtype).eps ** 0.5).clamp(min=xi)

    def evaluate(self, direction: Tensor) -> Evaluation:
        """Return the divergence [N] at ``direction``, and a positive multiple of its gradient a row."""
        x = (self._x + self._xi * direction).requires_grad_()
        logits = self._networks.logits(x)
        # With u = expm1(change of the logits) the new probabilities are p (1 + u) / (1 + <p, u>), whatever the logits
        # have in common; without their largest change nothing overflows.
        change = accumulate(logits.detach()) - self._clean
        change = change - change.amax(1, keepdim=True)
        growth = torch.expm1(change)
        mean = (self._probabilities * growth).sum(1, keepdim=True)
        value = torch.log1p(mean).squeeze(1) - (self._probabilities * change).sum(1)
        grad_logits = self._probabilities * (growth - mean)
        # The direction is all that counts; at length one it survives half precision.
        return Evaluation(value, gradient(logits, x, _unit(grad_logits, grad_logits).to(logits.dtype)))


def _drawn(x: Tensor, noise: Noise) -> Tensor:
    """Return random directions of length one for ``x`` [N, ...]."""
    drawn = Ball(eps=1.0, norm="l2", bounds=None).random_rows(torch.zeros_like(x), 1, noise)
    return _unit(drawn, drawn)


def _unit_or_stay(direction: Tensor, grad: Tensor) -> Tensor:
    """Return the next direction of the power iteration; the old one where the gradient is zero or not a number."""
    return _unit(grad, direction)


def _unit(x: Tensor, otherwise: Tensor) -> Tensor:
    """Scale each row of ``x`` [N, ...] to l2 length 1; take that of ``otherwise`` where it has no direction."""
    length = safe_norm(x)
    return choose(((length > 0) & length.isfinite()).flatten(), x / length, otherwise)
