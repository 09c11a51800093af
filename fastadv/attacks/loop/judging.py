"""The network's own verdict: the images still classified correctly, the runner-up classes, success on an image."""

from __future__ import annotations

import torch
from torch import Tensor

from fastadv.attacks.model.networks import Networks
from fastadv.ops import checks


class Judge:
    """The verdicts of ``networks`` on images near ``x``.

    Attributes:
        logits: of the clean images [N, C].
        y: their classes [N]; for None the network's own prediction.
        correct: the images that are classified right, int64, ascending.
    """

    def __init__(self, networks: Networks, x: Tensor, y: Tensor | None, *, batch_size: int) -> None:
        self._networks, self._batch_size = networks, batch_size
        if y is not None:
            checks.int64("y", y, [len(x)], x)
        self.logits = self._logits(x) if len(x) else x.new_zeros(0, 2)
        if self.logits.shape[1] < 2:
            raise ValueError(f"model must give logits [N, C] of two classes or more, got {list(self.logits.shape)}")
        if y is not None:
            checks.target_values(y, self.logits.shape[1], "y")
        prediction = self.logits.argmax(1)
        self.y = prediction if y is None else y
        self.correct = (prediction == self.y).nonzero().flatten()

    def misclassified(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mask [n] of the images of ``x`` [n, ...] that are taken for another class than their ``y`` [n]."""
        return self._logits(x).argmax(1) != y

    def targets(self, count: int, restarts: int = 1) -> Tensor:
        """The classes of rank 2, 3, ... on the clean images, ``count`` at most, each ``restarts`` times in a row."""
        ranked = self.logits.sort(dim=1, descending=True, stable=True).indices[:, 1 : count + 1]
        return ranked.repeat_interleave(restarts, 1)

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        # A network may give the same buffer at each call.
        return torch.cat([self._networks.logits(part).clone() for part in x.split(self._batch_size)])
