"""How far a network is from its first-order expansion."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.attacks.loop.arguments import master
from fastadv.attacks.methods.fgsm import fgsm
from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.reference._common import accumulate


def remainder(network: Network, x: Tensor, *, eps: float) -> Tensor:
    """How much of the change of a network's logits its gradient does not explain: a scalar, zero for a linear network.

    ``median over images of |f(x + d) - f(x) - J d|_2 / |f(x + d) - f(x)|_2``

    with the Jacobian J of the logits f at x and the step d of linf length ``eps`` that lowers the margin of f's own
    prediction most to first order, in the box. The network runs in eval mode and is left as it was.

    Args:
        network: from images to logits [N, C].
        x: images [N, ...] in [0, 1], floating point.
        eps: radius in the units of x.

    Raises as :func:`fastadv.attacks.fgsm`.
    """
    x = master(x)
    moved = fgsm(network, x, eps=eps, loss="cw")
    networks = Networks(network)
    with no_trace(networks.members):
        before, slope = torch.autograd.functional.jvp(lambda x: networks(x)[0], x, moved - x)
    with no_trace(networks.members), torch.no_grad():
        change = accumulate(networks(moved)[0]) - accumulate(before)
    return ((change - accumulate(slope)).norm(dim=1) / change.norm(dim=1)).nanmedian()
