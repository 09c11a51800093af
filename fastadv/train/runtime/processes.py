"""The processes of a run: one alone, or those that torchrun started, which share every batch."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from fastadv.train.runtime.errors import TrainError

T = TypeVar("T")


class Processes:
    """This process among those of the run.

    Gradients are added with one `all_reduce` of a flat tensor after the backward pass and not by
    DistributedDataParallel, for three reasons. Resume: DDP sorts its buckets anew after its first backward pass, by the
    order in which gradients came, so that the first step after a resume adds in another order than the same step of a
    run that was not interrupted; from three processes on the last bits differ. Equal losses: DDP divides by the number
    of processes and takes the BatchNorm statistics of the first, where a step counts each process by its share of the
    images and averages the statistics. Parameters: a method's own, and its adversary's, get gradients from up to three
    backward passes a step, of which each reaches others, while DDP expects one for each `forward` of what it wraps.

    rank, count: from torch.distributed where it is initialised, else 0 of 1.
    """

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.count = distributed.get_world_size() if together else 1

    @property
    def first(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place; all of them pass the same shapes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        """Return what `make` gives in the first process, which alone calls it; a TrainError there is raised in all."""
        if self.count == 1:
            return make()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = make()
            except TrainError as error:
                box[1] = error
        distributed.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def differing(self, tensors: dict[str, Tensor]) -> list[str]:
        """Return the names of the tensors that are not the same in every process. Waits for the device."""
        if self.count == 1:
            return []
        names = []
        for name, tensor in tensors.items():
            first = tensor.detach().clone()
            distributed.broadcast(first, 0)
            same = torch.eq(first, tensor).all().to(torch.int64)
            distributed.all_reduce(same, distributed.ReduceOp.MIN)
            if not same.item():
                names.append(name)
        return names


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, unless this one has; of these only the first prints.

    device: "cpu" (gloo), or "cuda" (nccl, one GPU a process of this machine).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield Processes()
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Imported after, by the first step of an optimizer, it keeps the group's threads alive beyond the group; one that
    # then still lets go of a tensor may find the interpreter gone, and abort the process.
    importlib.import_module("torch._dynamo")
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        processes = Processes()
        with contextlib.ExitStack() as stack:
            if not processes.first:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            yield processes
            # None leaves while another still talks to it.
            distributed.barrier()
    finally:
        distributed.destroy_process_group()
