"""What is replaced in Triton's interpreter does what was there, refusals included."""

from __future__ import annotations

import pytest
import torch

from tests.ops.available import device_of, require_backend

SHAPES = [(1,), (16,), (2, 8), (1, 4, 2)]


@pytest.fixture
def tl():
    require_backend("triton")
    if device_of("triton") != "cpu":
        pytest.skip("Triton does not interpret here")
    return pytest.importorskip("triton.language")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_block_is_the_same_made_again(shape, tl):
    first, again = (tl.block_type(tl.float32, list(shape)) for _ in range(2))
    other = tl.block_type(tl.int64, [tl.constexpr(size) for size in shape])
    assert first == again
    assert first != other
    assert first != tl.block_type(tl.float32, [*shape, 32])
    assert (again.element_ty, other.element_ty, again.scalar) == (tl.float32, tl.int64, tl.float32)
    for block in (first, again, other):
        assert block.is_block()
        assert tuple(block.shape) == shape
        assert block.numel == torch.Size(shape).numel()
        assert block.name == f"<{list(map(str, shape))}, {block.element_ty}>"


@pytest.mark.parametrize("shape", [(3,), (4, 0), (2**21,)], ids=str)
def test_a_shape_that_no_block_has_is_refused_each_time(shape, tl):
    for _ in range(2):
        with pytest.raises(ValueError, match=r"power of 2|exceeds"):
            tl.block_type(tl.float32, list(shape))


def test_numpy_has_the_types_that_triton_says(tl):
    import numpy as np
    from triton.runtime.interpreter import _get_np_dtype

    expected = {tl.float32: np.float32, tl.bfloat16: np.uint16, tl.float64: np.float64, tl.int1: np.bool_}
    for kind, dtype in {**expected, tl.uint32: np.uint32, tl.int64: np.int64}.items():
        for _ in range(2):
            assert _get_np_dtype(kind) == dtype
            assert _get_np_dtype(tl.block_type(kind, [4])) == dtype
        assert _get_np_dtype(tl.pointer_type(kind)) == np.uint64
        assert _get_np_dtype(tl.block_type(tl.pointer_type(kind), [4])) == np.uint64


def test_blocks_of_other_shapes_are_broadcast_and_those_that_do_not_fit_refused(tl):
    from triton.runtime.interpreter import TensorHandle, interpreter_semantic

    def block(*shape):
        values = torch.arange(float(torch.Size(shape).numel())).view(shape).numpy()
        return tl.tensor(TensorHandle(values, tl.float32), tl.block_type(tl.float32, list(shape)))

    left, right = interpreter_semantic.broadcast_impl_value(block(4, 1), block(1, 2))
    assert left.handle.data.shape == right.handle.data.shape == (4, 2)
    assert [size.value for size in left.shape] == [4, 2]
    same = block(4), block(4)
    assert interpreter_semantic.broadcast_impl_value(*same) == same
    with pytest.raises(ValueError, match="incompatible dimensions"):
        interpreter_semantic.broadcast_impl_value(block(4), block(2))
