"""Every case of tests/ops on the CUDA kernels: dtypes, layouts, sizes, to the bit where that is promised."""

from __future__ import annotations

import pytest
import torch

from fastadv.ops.schemas import SCHEMAS
from tests.cuda.conftest import ON_GPU
from tests.ops.cases import CASES, ORACLE, SIZES, Draw, in_float64
from tests.ops.layouts import LAYOUTS, Guarded
from tests.ops.tolerance import assert_within


def assert_agrees(fused, case, dtype, layout, size):
    guarded = Guarded()
    tensors = guarded.place(case.make(Draw(dtype), size), layout)
    actual = case.evaluate(fused, tensors)
    guarded.assert_untouched()
    exact = in_float64(tensors)
    doubtful = case.doubtful(ORACLE, exact)
    for result, expected in zip(actual, case.evaluate(ORACLE, exact), strict=True):
        assert_within(case.kind, result, expected, doubtful=doubtful)


# float32 is the first of the layouts.
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtypes(case, dtype, fused):
    assert_agrees(fused, case, dtype, "contiguous", SIZES[case.sizes][0])


# The others are made dense in Python before an op is called, as those of "mixed" are, on the simulator in the same way
# as for the C++ ops.
SIMULATED_LAYOUTS = ("contiguous", "channels_last", "mixed", "mixed_channels_last")
EACH_LAYOUT = [(layout, "simulated") for layout in SIMULATED_LAYOUTS]
EACH_LAYOUT += [pytest.param(layout, *gpu.values, id=f"{layout}-{gpu.id}") for layout in LAYOUTS for gpu in ON_GPU]


@pytest.mark.parametrize(("layout", "fused"), EACH_LAYOUT, indirect=["fused"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts(case, layout, fused):
    assert_agrees(fused, case, torch.float32, layout, SIZES[case.sizes][0])


@pytest.mark.parametrize(("case", "size"), [(c, s) for c in CASES for s in SIZES[c.sizes][1:]], ids=str)
def test_sizes(case, size, fused):
    assert_agrees(fused, case, torch.float32, "contiguous", size)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed"])
@pytest.mark.parametrize("case", [case for case in CASES if case.exact], ids=str)
def test_linf_is_exact_to_the_bit(case, layout, fused):
    for size in SIZES["images"]:
        tensors = Guarded().place(case.make(Draw(torch.float32, seed=1), size), layout)
        assert torch.equal(case.call(fused, tensors), case.call(ORACLE, tensors))


def test_every_op_has_a_kernel(simulator):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert [name for name in SCHEMAS if not has(f"fastadv_simulated::{name}", "CPU")] == []
