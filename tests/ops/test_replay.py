"""Every case inside a CUDA graph, and without anything that waits for the device; both need a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fastadv
from fastadv.attacks.captured import recording
from tests.ops.available import require_backend
from tests.ops.cases import CASES, FUSED, SIZES, Case, Draw, Tensors
from tests.ops.layouts import Guarded

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)


@pytest.fixture(params=("cuda", "triton"))
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The backends of a GPU, on tensors that are there."""
    require_backend(request.param)
    with fastadv.use_backend(request.param):
        yield request.param


def drawn(case: Case, seed: int, layout: str = "contiguous") -> Tensors:
    return Guarded("cuda").place(case.make(Draw(torch.float32, seed), SIZES[case.sizes][0]), layout)


@pytest.mark.parametrize("layout", ["contiguous", "mixed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_replay_computes_on_what_its_inputs_hold_then(case, layout, backend):
    first, second = drawn(case, 0, layout), drawn(case, 1, layout)
    inputs = drawn(case, 0, layout)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Kernels are compiled and loaded before anything is recorded.
        case.evaluate(FUSED, inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with recording(graph, side):
        outputs = case.evaluate(FUSED, inputs)
    for contents in (second, first, second):
        for name, x in inputs.items():
            x.copy_(contents[name])
        graph.replay()
        for output, expected in zip(outputs, case.evaluate(FUSED, contents), strict=True):
            torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "mixed", "broadcast"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_waits_for_the_device(case, layout, backend):
    tensors = drawn(case, 0, layout)
    case.evaluate(FUSED, tensors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.evaluate(FUSED, tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
