"""A teacher to first order around a batch, for attacks that cannot pay for the teacher at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fastadv.attacks.model.guard import no_trace
from fastadv.attacks.model.networks import Network, Networks
from fastadv.distill.parts.features import attacked_as
from fastadv.numerics import accumulate
from fastadv.ops import checks


class TrueClassExpansion(nn.Module):
    """The logits of a teacher at x, the true class's to first order: ``T(x) + scale <grad_x T_y(x), x' - x> e_y``.

    One forward and one backward pass of the teacher at :meth:`around`; each forward after it costs a product an image.
    Its tensors have the same memory for all batches of a shape, so that a captured attack reads the newest.

    Args:
        scale: of the change; 1 is the expansion itself, 0 holds the teacher constant.

    Source: Lee, Chung, "Sample-wise adaptive weighting for transfer consistency in adversarial distillation", TMLR
    2026, algorithm 2, and its released code.
    """

    x: Tensor
    logits: Tensor
    slope: Tensor
    true: Tensor

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        for name in ("x", "logits", "slope", "true"):
            self.register_buffer(name, None, persistent=False)
        self._memory: dict[Any, Tensor] = {}

    def around(self, teacher: Network, x: Tensor, y: Tensor) -> TrueClassExpansion:
        """Expand ``teacher`` at ``x`` [N, ...], float32 or float64, with classes ``y`` [N], int64; return itself.

        Raises TypeError and ValueError where y are no classes of the logits.
        """
        networks = Networks(teacher)
        with no_trace(networks.members), attacked_as("teacher"):
            leaf = x.detach().clone().requires_grad_()
            logits = networks.logits(leaf)
            checks.classes("y", y, logits)
            true = one_hot(y, logits.shape[1])
            (slope,) = torch.autograd.grad(logits, leaf, grad_outputs=true.to(logits.dtype))
        for name, tensor in {"x": x, "logits": accumulate(logits), "slope": slope, "true": true.to(x.dtype)}.items():
            self._keep(name, tensor.detach())
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, C] that the expansion gives for ``x`` [N, ...]."""
        rise = ((x - self.x) * self.slope).flatten(1).sum(1, keepdim=True)
        return self.logits + self.scale * rise * self.true

    def _keep(self, name: str, tensor: Tensor) -> None:
        key = (name, tensor.shape, tensor.dtype, tensor.device)
        if key not in self._memory:
            self._memory[key] = torch.empty_like(tensor)
        setattr(self, name, self._memory[key].copy_(tensor))
