"""The processes that train one student together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed


class Processes:
    """This process among those of the run.

    Gradients are added with one `all_reduce` of a flat tensor after the backward pass and not by
    DistributedDataParallel, for three reasons. Resume: DDP sorts its buckets anew after its first backward pass, by the
    order in which gradients came, so that the first step after a resume adds in another order than the same step of a
    run that was not interrupted; from three processes on the last bits differ. Equal losses: DDP divides by the number
    of processes and takes the BatchNorm statistics of the first, where a step counts each process by its share of the
    images and averages the statistics. Parameters: a method's own, and its adversary's, get gradients from up to three
    backward passes a step, of which each reaches others, while DDP expects one for each `forward` of what it wraps.

    group: those processes; None is all.
    rank, count: in the group, from torch.distributed where it is initialised, else 0 of 1.
    """

    def __init__(self, group: distributed.ProcessGroup | None = None) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self._group = group
        self.rank = distributed.get_rank(group) if together else 0
        self.count = distributed.get_world_size(group) if together else 1

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place; all of them pass the same shapes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat, group=self._group)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))
