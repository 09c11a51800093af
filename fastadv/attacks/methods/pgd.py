"""Projected gradient ascent: pgd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from fastadv.attacks.configured import Attack
from fastadv.attacks.loop.ascent import Step
from fastadv.attacks.loop.ball import Ball
from fastadv.attacks.loop.noise import Noise
from fastadv.attacks.loop.objective import Goal, Loss
from fastadv.attacks.loop.projected_ascent import Tries, projected_ascent
from fastadv.attacks.model.networks import Network
from fastadv.near_misses import answers_near_misses
from fastadv.ops.pixelwise import Bounds
from fastadv.ops.step import pgd_stepper


@answers_near_misses
def pgd(
    model: Network | Sequence[Network],
    x: Tensor,
    y: Tensor | None = None,
    *,
    eps: float | Tensor,
    step_size: float | Tensor | None = None,
    steps: int | Tensor = 10,
    norm: str = "linf",
    loss: Loss = "ce",
    reference: Tensor | None = None,
    targeted: bool = False,
    random_start: bool = True,
    restarts: int = 1,
    best: bool = False,
    bounds: Bounds = (0.0, 1.0),
    mode: str = "exact",
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    l1_fraction: float = 0.05,
    start_eps: float | Tensor | None = None,
    mask: Tensor | None = None,
    eot: int = 1,
    quantize: bool = False,
    check: bool | None = None,
) -> Tensor:
    """Projected gradient ascent: ``x <- pgd_step(x, grad loss(model(x)))``, ``steps`` times from a start in the ball.

    Nothing of the caller's changes: parameters get no gradient, the model runs in eval mode and every submodule has its
    own flag back afterwards, the global random state is not touched, autocast stays as it is. Works inside
    ``torch.no_grad()`` and, for a model made outside of it, inside ``torch.inference_mode()``. Nothing waits for the
    device. A model whose parameters do not require grad is attacked sooner. ``torch.compile(fullgraph=True)`` captures
    the loop where ``torch._dynamo.config.trace_autograd_ops`` is on and a seed is given.

    Args:
        model: a callable from images to logits [N, C], in practice a module; or a sequence of them, attacked together:
            the loss is then a callable of the tuple of their outputs. One logit z stands for the classes 0 and 1 of a
            sigmoid, as logits [0, z]. Images are cast to the dtype of its parameters. A callable that is no module or
            method of one sees float32 images (float64 ones of a float64 x); modules that it holds are found in
            closures, partials, attributes and collections and put in eval mode.
        x: clean images [N, ...], float64, float32, bfloat16 or float16, pixels inside the bounds: normalising them is
            the model's first layer, see :class:`fastadv.attacks.Normalized`.
        y: classes [N], int64, of "ce", "cw" and "dlr"; None is the model's own clean prediction (one more forward), but
            not where targeted. Of a callable loss that takes it any tensor [N, ...].
        eps: radius in the units of x, a float or [N], for linf also one for each channel or pixel, a tensor of two
            dimensions or more that broadcasts to x; not negative.
        step_size: length of a step in the norm, as eps; None is ``2.5 eps / steps``.
        steps: how often to step; 0 returns the start. An int, or int64 [N] on the CPU (the host counts the loop, so it
            has to know the largest): a sample that has made its own number stays where it is. Not under torch.compile.
        norm: "linf", "l2" or "l1".
        loss: "ce", "kl" (the divergence from ``reference``), "dlr" or "cw", see :func:`fastadv.attack_loss`. "ce"
            climbs ``logsumexp_{j != y} z_j - z_y``, of which the cross-entropy is a monotone function: the same ascent,
            whose gradient does not vanish where the model is sure of y. Nor does that of "dlr" or "cw", nor that of
            "kl", which is scaled where model and reference are sure of one class.
            Or a callable of the model's output (whatever that is), or of it and y (repeated for restarts), that gives
            one value a row and is differentiated by autograd. Values are summed, never averaged.
        reference: logits [N, C] of loss "kl", or true classes [N] of a targeted "dlr"; None is the model's own clean
            logits or prediction (one more forward).
        targeted: descend, towards y or the reference.
        random_start: start from :func:`fastadv.random_start`, else from x; or, for "kl" where the reference is what the
            model gives for x, given or not, so that there is no gradient at x, from a random point within a tenth of
            eps (for a reference that is given, found by one more forward).
        restarts: attacks a sample, in one forward of [N * restarts] (row ``i * restarts + r`` is restart r of sample
            i); the best of their ends is returned (one more forward). Only a random start makes them differ.
        best: return the best iterate, start and end included, not the last one (one more forward). Better is one that
            is misclassified, or of class y where targeted, and among these the one of the higher loss; of a callable
            loss the value alone decides.
        bounds: (low, high), or None for no box; for linf both may be tensors as eps.
        mode: "exact" or "sequential", see :func:`fastadv.project`.
        seed: of the random start, an int or an int64 tensor without dimensions on the device of x. None gives another
            start at each call, derived from torch.initial_seed(), the number of the call and the distributed rank.
        sample_ids: whose noise each sample gets, int64 [N] on the device of x, in [0, 2^32); None is its place in the
            batch. A sample with the same identity and seed starts from the same point in any batch.
        l1_fraction: share of the coordinates that an l1 step moves, in (0, 1], see :func:`fastadv.pgd_step`.
        start_eps: radius of the ball that the random start is drawn from, at most eps, a float or [N]; None is eps. For
            each sample the smaller of the two counts where either is a tensor. A small one starts next to x, where a
            loss that compares with x itself has no gradient. Not without a random start.
        mask: the pixels that may move, bool, broadcast to x; None is all.
        eot: average values and gradients over so many forwards of each step, for a model that draws random numbers.
        quantize: return images of 8 bits, k / 255, as x has to be: those near the result that lie in the ball, see
            :func:`fastadv.attacks.loop.quantize.quantized`.
        check: look at the values of images, first logits and parameters, and raise ValueError for pixels outside of
            bounds, NaN and infinity. None does on a CPU; True also on a device, and waits for it; False nowhere.

    Returns:
        Adversarial images, detached, of the shape of x; float32, or float64 for a float64 x: in half precision they
        would leave the ball.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape, device or value is wrong, unknown norm, loss or mode; no seed under torch.compile.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """
    return projected_ascent(
        partial(steepest_step, l1_fraction),
        model,
        x,
        Goal(y, loss, reference, targeted, eot),
        Ball(eps, norm, bounds, mode, mask),
        Noise(seed, sample_ids),
        Tries(random_start, restarts, best, start_eps, quantize),
        step_size=step_size,
        steps=steps,
        check=check,
    )


class PGD(Attack, function=pgd):
    """:func:`fastadv.attacks.pgd`, configured once: ``PGD(eps=8 / 255, steps=20)(model, x, y)``."""


def steepest_step(l1_fraction: float, centre: Tensor, ball: Ball, step_size: float | Tensor) -> Step:
    """Return steps of :func:`fastadv.pgd_step`, in place, in ``ball`` around ``centre`` [rows, ...]."""
    return pgd_stepper(centre, step_size=step_size, l1_fraction=l1_fraction, in_place=True, **ball.projection)
