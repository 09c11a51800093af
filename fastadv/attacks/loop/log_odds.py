"""The log-odds of being wrong, which stand for the cross-entropy in a loop."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.numerics import accumulate
from fastadv.ops import checks


def log_odds_value_and_grad(logits: Tensor, target: Tensor, *, targeted: bool = False) -> tuple[Tensor, Tensor]:
    """Return ``v = logsumexp_{j != y} z_j - z_y`` [N] of logits [N, C] and its gradient [N, C]; -v where targeted."""
    if not torch.compiler.is_compiling():
        checks.target_values(target, logits.shape[1])
    z, own = accumulate(logits.detach()), target[:, None]
    others = z.scatter(1, own, -torch.inf)
    value = others.logsumexp(1) - z.gather(1, own).squeeze(1)
    grad = others.softmax(1).scatter(1, own, -1.0)
    return (-value, -grad) if targeted else (value, grad)
