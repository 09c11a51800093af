"""A memory bank: an embedding of each training image, to contrast with; CRD keeps one of each network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fastadv.distill.parts.precision import without_autocast
from fastadv.numerics import accumulate

# The published guard of the quotients.
_GUARD = 1e-7


class MemoryBank(nn.Module):
    """A linear embedding [N, width] of features [N, inputs], to l2 length one, and a row of memory for each image.

    rows: [images, width], noise at first. partition: Z, [], zero until the first batch has set it.
    temperature: of the similarities. momentum: share of a row that stays when it is remembered anew.
    """

    rows: Tensor
    partition: Tensor

    def __init__(self, inputs: int, width: int, images: int, temperature: float, momentum: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.temperature, self.momentum = temperature, momentum
        # Rows of about length one.
        bound = math.sqrt(3 / width)
        self.register_buffer("rows", torch.empty(images, width).uniform_(-bound, bound))
        self.register_buffer("partition", torch.zeros(()))

    def embed(self, features: Tensor) -> Tensor:
        return normalize(accumulate(self.linear(accumulate(features))))

    def nce_loss(self, anchors: Tensor, indices: Tensor) -> Tensor:
        """Return the NCE loss of anchors [N, width]: the mean of l of :class:`CRD`.

        indices: of the rows, [N, 1 + K], an anchor's own first and then those it is told from.
        """
        with without_autocast(anchors):
            # A copy, since remembering changes the rows before the backward pass reads them. The product with all rows
            # moves far less memory than K rows for each anchor would.
            similarity = anchors @ self.rows.clone().T
        likeness = (similarity.gather(1, indices) / self.temperature).exp()
        images, negatives = len(self.rows), indices.shape[1] - 1
        with torch.no_grad():
            first = likeness.mean() * images
            self.partition.copy_(torch.where(self.partition > 0, self.partition, first))
        p = likeness / self.partition
        noise = negatives / images
        positive, negative = p[:, 0], p[:, 1:]
        log_share = (positive / (positive + noise + _GUARD)).log() + (noise / (negative + noise + _GUARD)).log().sum(1)
        return -log_share.mean()

    @torch.no_grad()
    def remember(self, embeddings: Tensor, index: Tensor) -> None:
        """Move the rows at ``index`` [N] towards ``embeddings`` [N, width]."""
        rows = torch.lerp(embeddings.to(self.rows.dtype), self.rows[index], self.momentum)
        self.rows.index_copy_(0, index, normalize(rows))
