"""A search for every image that is classified right, as the attacks with a budget of an image's own make it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastadv.attacks.loop.judging import Judge
from fastadv.attacks.loop.row_queue import Queue, Search


def search_correct(search: Search, judge: Judge, x: Tensor, **how: Any) -> Tensor:
    """Return ``x`` [N, ...] with what ``search`` finds in the place of those classified right; ``how``: of queue_of."""
    queue = queue_of(search, judge, x, judge.correct, **how)
    queue.run()
    return x.index_copy(0, judge.correct, queue.x)


def queue_of(
    search: Search,
    judge: Judge,
    x: Tensor,
    images: Tensor,
    *,
    eps: float | Tensor,
    sample_ids: Tensor | None,
    targets: Tensor | None,
    copies: int,
    batch_size: int,
    kind: type[Queue] = Queue,
) -> Queue:
    """``search`` for the ``images`` [n], indices into ``x`` [N, ...] as eps, sample_ids and targets have them."""
    radii = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x))
    ids = torch.arange(len(x), device=x.device) if sample_ids is None else sample_ids
    return kind(
        search,
        judge.misclassified,
        x[images],
        judge.y[images],
        eps=radii[images],
        sample_ids=ids[images],
        targets=None if targets is None else targets[images],
        copies=copies if targets is None else targets.shape[1],
        batch_size=batch_size,
    )
