"""The processes of a run: one alone, or those that torchrun started, which share every batch."""

import contextlib
import hashlib
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from fastadv.distill.parts import processes as distill_processes
from fastadv.train.runtime.errors import TrainError

T = TypeVar("T")

# As long as one process may have to wait for another, whose share of an evaluation takes longer; torchrun itself ends
# those that wait for one that died.
_PATIENCE = timedelta(days=7)


class Processes(distill_processes.Processes):
    """This process among those of the run."""

    @property
    def first(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

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
        same = []
        for tensor in tensors.values():
            first = tensor.detach().clone()
            distributed.broadcast(first, 0)
            same.append(torch.eq(first, tensor).all())
        everywhere = torch.stack(same).to(torch.int64)
        distributed.all_reduce(everywhere, distributed.ReduceOp.MIN)
        return [name for name, agreed in zip(tensors, everywhere.tolist(), strict=True) if not agreed]

    def differing_facts(self, facts: Mapping[str, Mapping[str, str]], *, device: str) -> list[str]:
        """Return the names of those of ``facts`` that are not the same in every process. Waits for the device."""
        digests = {name: hashlib.sha256(json.dumps(each).encode()).digest() for name, each in facts.items()}
        return self.differing({name: torch.tensor([*digest], device=device) for name, digest in digests.items()})


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
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
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
