"""The kernels that torch.compile would launch on an H100, asked of Inductor itself, where there is no GPU.

Inductor plans and writes its kernels before it compiles them, from a graph of tensors that hold no data and a few
properties of the device. Both are made up here, by private parts of the PyTorch that the project is developed with.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import fx
from torch._dynamo.device_interface import CudaInterface
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import ir, scheduler
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _triton
from torch.utils._pytree import tree_map

from performance.model import MULTIPROCESSORS, REGISTERS, Program

GPU = torch.device("cuda", 0)
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    gcnArchName="",
    major=9,
    minor=0,
    multi_processor_count=MULTIPROCESSORS,
    regs_per_multiprocessor=REGISTERS,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=80 * 2**30,
    L2_cache_size=50 * 2**20,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10,
    shared_memory_per_multiprocessor=228 * 2**10,
)
# Of a graph, what adds up or compares many numbers.
REDUCTIONS = {"amax", "amin", "bmm", "cumsum", "max", "mean", "median", "prepare_softmax_online", "sort", "sum", "topk"}


def plan(function: Callable[..., object], *inputs: torch.Tensor, trained: bool = False) -> Program:
    """Return the program that Inductor makes of ``function`` for inputs like these, on an H100.

    Bytes are those that Inductor counts for each kernel, its inputs and outputs once. What a kernel reads again in
    later loops over its rows is counted in the kernel's text.

    Args:
        trained: a loss whose backward pass to the first input is asked of autograd, outside of the compiled graph.
    """
    with FakeTensorMode() as mode:
        # On the CPU, since PyTorch without CUDA cannot differentiate on another device; then moved.
        examples = [torch.empty(x.shape, dtype=x.dtype) for x in inputs]
        if trained:
            graphs = _forward_and_backward(function, examples)
        else:
            graphs = [make_fx(function, decomposition_table=select_decomp_table(), tracing_mode="fake")(*examples)]
        for node in (node for graph in graphs for node in graph.graph.nodes):
            node.args, node.kwargs = tree_map(_on_gpu, (node.args, node.kwargs))
            node.meta = {"val": tree_map(_on_gpu, node.meta["val"])} if "val" in node.meta else {}
    with _as_on_an_h100(), V.set_fake_mode(mode), V.set_debug_handler(DebugContext()):
        programs = [_planned(graph) for graph in graphs]
    return Program(
        launches=sum(each.launches for each in programs),
        moved=sum(each.moved for each in programs),
        again=tuple(again for each in programs for again in each.again),
        sums=sum(each.sums for each in programs),
    )


def _forward_and_backward(function: Callable[..., object], examples: list[torch.Tensor]) -> list[fx.GraphModule]:
    graphs: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    student, *others = examples
    compiled = aot_function(
        function, keep, keep, min_cut_rematerialization_partition, decompositions=select_decomp_table()
    )
    compiled(student.requires_grad_(), *others).backward()
    return graphs


def _planned(graph: fx.GraphModule) -> Program:
    graph.graph.eliminate_dead_code()
    post_grad_passes(graph, is_inference=True)
    lowered = GraphLowering(graph)
    with V.set_graph_handler(lowered):
        lowered.run(*(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")))
        code = lowered.codegen()[0].value
        moved, nodes, _ = lowered.count_bytes()
    launches = sum(_is_launch(node) for node, _ in nodes)
    return Program(launches, moved, tuple(_read_again(code)), _depth(graph))


def _on_gpu(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=GPU)
    return GPU if isinstance(x, torch.device) else x


@contextlib.contextmanager
def _as_on_an_h100() -> Iterator[None]:
    """Let PyTorch believe that there is one, and Triton for it."""
    answers = [
        *((owner, "get_device_properties", H100) for owner in (CudaInterface, CudaInterface.Worker, torch.cuda)),
        *((owner, "current_device", 0) for owner in (CudaInterface, CudaInterface.Worker, torch.cuda)),
        (CudaInterface, "get_compute_capability", "90"),
        (torch.cuda, "get_device_capability", (H100.major, H100.minor)),
        (scheduler, "has_triton", True),
        (_triton, "triton_hash_with_backend", ""),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, return_value=answer))
        yield


def _is_launch(node: scheduler.BaseSchedulerNode) -> bool:
    """Return whether a node is a kernel, or a call of one or several; one of several outputs of a call is none."""
    return not isinstance(node, scheduler.NopKernelSchedulerNode) and not isinstance(node.node, ir.MultiOutput)


def _read_again(code: str) -> Iterator[tuple[float, float]]:
    """Yield, for each kernel that loops over its rows, the bytes read after the first time and those of a row."""
    for kernel in re.findall(r"\ndef triton_red_.*?(?=\n''')", code, re.DOTALL):
        rows, columns = (_number(kernel, name) for name in ("xnumel", "r0_numel"))
        loads = re.findall(r"\n        tmp\d+ = tl\.load\((\w+) \+", kernel)
        row = 4.0 * columns * len(set(loads))
        yield rows * row * (len(loads) / max(len(set(loads)), 1) - 1), row


def _number(kernel: str, name: str) -> int:
    """Return what a kernel's text sets ``name`` to."""
    found = re.search(rf"\n    {name} = (\d+)", kernel)
    assert found
    return int(found[1])


def _depth(graph: fx.GraphModule) -> int:
    """Return how many reductions wait for one another, at most."""
    depth: dict[fx.Node, int] = {}
    for node in graph.graph.nodes:
        before = max((depth[each] for each in node.all_input_nodes), default=0)
        name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))
        depth[node] = before + (node.op == "call_function" and name.split(".")[0] in REDUCTIONS)
    return max(depth.values())
