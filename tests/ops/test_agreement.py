"""Every case on every backend against the reference: dtypes, layouts, sizes, uninitialised outputs, threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from tests.ops.available import BACKENDS, device_of
from tests.ops.cases import CASES, FUSED, ORACLE, SIZES, Case, Draw, Tensors, in_float64
from tests.ops.layouts import LAYOUTS, Guarded
from tests.ops.tolerance import assert_within

EXACT = [case for case in CASES if case.exact]
# Triton's interpreter takes its time. What lies in another way is made dense before a kernel sees it, as "mixed" is.
TRITON_LAYOUTS = ("contiguous", "channels_last", "mixed")
EXCEPT_TRITON = [name for name in BACKENDS if name != "triton"]


def each_layout(layouts: Iterable[str]) -> pytest.MarkDecorator:
    """Give a test each of ``layouts`` on every backend, on Triton those that it takes differently."""
    taken = {name: [layout for layout in layouts if name != "triton" or layout in TRITON_LAYOUTS] for name in BACKENDS}
    pairs = [(layout, name) for name, chosen in taken.items() for layout in chosen]
    return pytest.mark.parametrize(("layout", "backend"), pairs, indirect=["backend"])


@pytest.fixture(autouse=True)
def nan_in_new_memory() -> Iterator[None]:
    """Fill with NaN what PyTorch's Python side hands out uninitialised: an element that nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
    torch.utils.deterministic.fill_uninitialized_memory = filled


def leave_nan_in_freed_memory(tensors: Tensors) -> None:
    """For outputs that the compiled library allocates itself, out of reach of PyTorch's switch."""
    held = [
        torch.full(t.shape, torch.nan, dtype=dtype, device=t.device)
        for t in tensors.values()
        for dtype in {t.dtype, torch.float32}
        if dtype.is_floating_point
    ]
    del held


def on_cpu(tensors: Tensors) -> Tensors:
    return {name: t.cpu() for name, t in tensors.items()}


def assert_agrees(case: Case, dtype: torch.dtype, layout: str, size: tuple[int, ...], backend: str) -> None:
    guarded = Guarded(device_of(backend))
    tensors = guarded.place(case.make(Draw(dtype), size), layout)
    leave_nan_in_freed_memory(tensors)
    actual = case.evaluate(FUSED, tensors)
    guarded.assert_untouched()
    assert_looks_as_foreseen(case, tensors, actual[0])
    exact = in_float64(on_cpu(tensors))
    doubtful = case.doubtful(ORACLE, exact)
    for result, expected in zip(actual, case.evaluate(ORACLE, exact), strict=True):
        assert_within(case.kind, result.cpu(), expected, doubtful=doubtful)


def assert_looks_as_foreseen(case: Case, tensors: Tensors, result: Tensor) -> None:
    """Shape, dtype and strides are what the op's shape function says."""
    with pytest.MonkeyPatch.context() as patch:
        # The shape function is the same whatever backend is in force, but a backend refuses tensors without memory.
        patch.setattr("fastadv.ops.dispatch._forced", None)
        fake = case.call(FUSED, {name: without_memory(t) for name, t in tensors.items()})
    assert (result.shape, result.dtype, strides(result)) == (fake.shape, fake.dtype, strides(fake))


def strides(t: Tensor) -> list[int]:
    """Of the dimensions that have a second element."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1 and t.numel()]


def without_memory(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_layout(LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts(case, layout, dtype, backend):
    assert_agrees(case, dtype, layout, SIZES[case.sizes][0], backend)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dtypes(case, dtype, backend):
    assert_agrees(case, dtype, "contiguous", SIZES[case.sizes][0], backend)


@pytest.mark.parametrize(("case", "size"), [(c, s) for c in CASES for s in SIZES[c.sizes][1:]], ids=str)
def test_sizes(case, size, backend):
    assert_agrees(case, torch.float32, "contiguous", size, backend)


@pytest.mark.parametrize("backend", EXCEPT_TRITON, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.sizes in ("images", "particles")], ids=str)
def test_half_precision_beyond_one_block(case, dtype, backend):
    """More elements than a kernel converts and rounds at a time; Triton's convert what they load, as in small cases."""
    particles = (2,) if case.sizes == "particles" else ()
    assert_agrees(case, dtype, "contiguous", (2, *particles, 3, 19, 23), backend)


LONG = ("project-l1", "random_start-l2", "pgd_step-l1", "pgd_step_-l2", "momentum_step-l2", "bss_step")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in LONG], ids=str)
def test_samples_that_programs_share(case, backend):
    """So long that Triton, and CUDA where it has no clusters, share each out; the other cases: test_parts.py."""
    assert_agrees(case, torch.float32, "contiguous", (1, 3, 105, 105), backend)


@each_layout(["channels_last", "broadcast", "broadcast_first", "mixed"])
@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_strides_that_mean_nothing(case, samples, layout, backend):
    """The stride of one sample or of none means nothing."""
    size = SIZES[case.sizes][0]
    assert_agrees(case, torch.float32, layout, (samples, *size[1:]), backend)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed"])
@pytest.mark.parametrize("case", EXACT, ids=str)
def test_linf_is_exact_to_the_bit(case, layout, backend):
    for size in SIZES["images"]:
        tensors = Guarded(device_of(backend)).place(case.make(Draw(torch.float32, seed=1), size), layout)
        assert torch.equal(case.call(FUSED, tensors).cpu(), case.call(ORACLE, on_cpu(tensors)))


IMAGE_RESULTS = [case for case in CASES if case.sizes == "images"]


@pytest.mark.parametrize("case", IMAGE_RESULTS, ids=str)
def test_images_keep_their_layout(case, backend):
    for size, memory_format in (((2, 3, 5, 4), torch.channels_last), ((2, 3, 2, 5, 4), torch.channels_last_3d)):
        plain = case.make(Draw(torch.float32), size)
        like = {name: t.contiguous(memory_format=memory_format) if t.dim() > 1 else t for name, t in plain.items()}
        if case.op in ("pgd_step_", "mix_backward") and len(size) == 5:
            continue
        result = case.call(FUSED, like)
        assert result.is_contiguous(memory_format=memory_format)
        assert case.call(FUSED, plain).is_contiguous()


REDUCING = [case for case in CASES if case.sizes in ("logits", "features")]


# The reference is made of PyTorch's ops; Triton's interpreter runs its programs in one thread.
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "cpu"], indirect=True)
@pytest.mark.parametrize("case", REDUCING, ids=str)
def test_losses_do_not_depend_on_the_number_of_threads(case, backend):
    tensors = case.make(Draw(torch.float32), (300, 500))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(case.evaluate(FUSED, tensors))
    finally:
        torch.set_num_threads(before)
    for alone, together in zip(*results, strict=True):
        assert torch.equal(alone, together)
