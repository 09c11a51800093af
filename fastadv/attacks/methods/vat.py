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
from fastadv.numerics import accumulate, accumulation_dtype, sample_dims
from fastadv.ops import ball, checks
from fastadv.ops.step import pgd_step

# The exponential of more is no float32 any more.
_LARGEST_CHANGE = 80.0


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
    xi is at least ``sqrt(machine epsilon) |x|_2``, the usual choice for a finite difference, with the epsilon of the
    coarsest dtype among logits, parameters and, inside of it, autocast. In float32 that is about 1e-2 for a 3x32x32
    image, where the published 1e-6 gives mostly rounding noise (measured on a CIFAR resnet20: cosine to the float64
    direction 0.999, against values from -0.96 to 0.99). In float64 1e-6 stands.

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
        start = Ball(eps=1.0, norm="l2", bounds=None).random_rows(torch.zeros_like(x), 1, Noise(seed, sample_ids))
        direction = ascend(_Divergence(networks, x, xi), start, _along_gradient, schedule)
        moved = pgd_step(x, direction, x, step_size=eps, eps=eps, norm="l2", bounds=None)
        return moved if bounds is None else ball.project(moved, x, eps=eps, norm="l2", bounds=bounds)


class VAT(Attack, function=vat, own_checks={"xi": checks.positive}):
    """:func:`fastadv.attacks.vat`, configured once: ``VAT(eps=1.0)(model, x)``."""


class _Divergence:
    """``KL(p(x) || p(x + xi d / |d|))`` as a function of the directions d [N, ...]."""

    def __init__(self, networks: Networks, x: Tensor, xi: float) -> None:
        self._networks = networks
        self._x = x
        with torch.no_grad():
            clean = networks.logits(x)
        # A network may give the same buffer at each call.
        self._clean = clean.to(accumulation_dtype(clean), copy=True)
        self._probabilities = self._clean.softmax(1)
        self._first = self._clean.argmax(1, keepdim=True)
        # Those of the other classes among themselves: they do not vanish where the network is sure of the first.
        self._others = self._clean.scatter(1, self._first, -torch.inf).softmax(1)
        self._xi = (_length(x) * networks.epsilon(clean) ** 0.5).clamp(min=xi)

    def evaluate(self, direction: Tensor) -> Evaluation:
        """Return the divergence [N] at ``direction``, and a positive multiple of its gradient a row."""
        x = torch.addcmul(self._x, self._xi / _length(direction), direction).requires_grad_()
        logits = self._networks.logits(x)
        # With u = expm1(change of the logits) the new probabilities are p (1 + u) / (1 + <p, u>), whatever the logits
        # have in common: the first class's own change, or as much more as keeps expm1 from overflowing.
        change = accumulate(logits.detach()) - self._clean
        common = torch.maximum(change.gather(1, self._first), change.amax(1, keepdim=True) - _LARGEST_CHANGE)
        change = change - common
        growth = torch.expm1(change)
        mean = (self._probabilities * growth).sum(1, keepdim=True)
        value = torch.log1p(mean).squeeze(1) - (self._probabilities * change).sum(1)
        grad_logits = self._others * (growth - mean)
        # The first class's own entry, in which a probability of nearly one would leave nothing but rounding.
        grad_logits.scatter_(1, self._first, -grad_logits.sum(1, keepdim=True))
        # The direction is all that counts; of this size it survives half precision.
        largest = torch.linalg.vector_norm(grad_logits, torch.inf, 1, keepdim=True)
        grad_logits = grad_logits / largest.clamp(min=torch.finfo(largest.dtype).tiny)
        return Evaluation(value, gradient(logits, x, grad_logits.to(logits.dtype)))


def _along_gradient(direction: Tensor, grad: Tensor) -> Tensor:
    """Return the next direction of the power iteration; the old one where the gradient is zero or not a number."""
    # Two maxima are several times as fast as the norm of order infinity.
    largest = torch.maximum(grad.amax(sample_dims(grad), keepdim=True), -grad.amin(sample_dims(grad), keepdim=True))
    # At most 1 everywhere, so that the squares of its length are in range.
    return choose(((largest > 0) & (largest < torch.inf)).flatten(), grad.div_(largest), direction)


def _length(x: Tensor) -> Tensor:
    """Return the l2 norm of each sample of ``x`` [N, ...] as [N, 1, ...]."""
    return torch.linalg.vector_norm(x, 2.0, sample_dims(x), keepdim=True)
