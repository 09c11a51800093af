"""Registration of the ops: a case for each, opcheck, tags; which library is loaded; how a backend is forced."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, library as torch_library
from torch.utils._python_dispatch import TorchDispatchMode

import fastadv
from fastadv.ops import dispatch
from fastadv.ops.schemas import SCHEMAS, digest
from tests.ops.available import BACKENDS, EVERY_BACKEND, device_of, require_backend
from tests.ops.cases import CASES, FUSED, SIZES, Case, Draw
from tests.ops.isolated import PACKAGE, copy_package, run_python

# The overload that computes on each backend.
OVERLOADS = {"reference": "reference", "cpu": "default", "triton": "triton", "cuda": "default"}


def registered() -> set[tuple[str, str]]:
    """(op, overload) of everything in the namespace, whether or not anyone has touched it."""
    names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastadv::"))
    split = (name.removeprefix("fastadv::").partition(".") for name in names)
    return {(op, overload or "default") for op, _, overload in split}


def test_every_registered_op_has_a_case():
    assert {op for op, _ in registered()} == {case.op for case in CASES} == set(SCHEMAS)


def test_every_overload_is_a_tested_backend():
    assert registered() == {(op, overload) for op in SCHEMAS for overload in OVERLOADS.values()}


@pytest.mark.parametrize("name", EVERY_BACKEND)
def test_every_backend_that_could_be_here_is(name):
    """Skipped with the reason where it cannot: the other tests do not mention such a backend."""
    require_backend(name)


def test_case_names_differ():
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def has_channels(case: Case) -> bool:
    return case.sizes in ("images", "features")


class Recorder(TorchDispatchMode):
    """The calls of fastadv's ops, with the arguments that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[torch._ops.OpOverload, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastadv":
            self.calls.append((func, tuple(a.clone() if isinstance(a, Tensor) else a for a in args)))
        return func(*args, **(kwargs or {}))


FIRST = {case.op: case for case in reversed(CASES)}
# That strides are those foreseen is tested of every case, backend and layout beside its values, in test_agreement.py.
# Here one case of an op stands for the others in another layout; in Triton's interpreter, which is slow, none does.
CHECKED = [
    (case, layout, backend)
    for case in CASES
    for backend in BACKENDS
    for layout in ("contiguous", "channels_last")
    if layout == "contiguous" or (case is FIRST[case.op] and has_channels(case) and backend != "triton")
]


def checks(case: Case, backend: str) -> tuple[str, ...]:
    """All, of the overload that serves by default and once of each other.

    The overloads of an op share one shape function and record no graph, so that they go alike through dynamic shapes
    and autograd. What each computes may have other strides than foreseen, or share memory with its inputs.
    """
    for_each = ("test_schema", "test_faketensor")
    shared = ("test_autograd_registration", "test_aot_dispatch_dynamic")
    return (*for_each, *shared) if OVERLOADS[backend] == "default" or case is FIRST[case.op] else for_each


@pytest.mark.parametrize(("case", "layout", "backend"), CHECKED, ids=str)
def test_opcheck(case: Case, layout: str, backend: str):
    require_backend(backend)
    size = (2, 3, 4, 5) if has_channels(case) else SIZES[case.sizes][0]
    tensors = case.make(Draw(torch.float32), size)
    if layout == "channels_last":
        tensors = {
            k: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for k, t in tensors.items()
        }
    tensors = {k: t.to(device_of(backend)) for k, t in tensors.items()}
    with fastadv.use_backend(backend), Recorder() as recorder:
        case.evaluate(FUSED, tensors)
    assert recorder.calls
    for op, arguments in recorder.calls:
        assert op._overloadname == OVERLOADS[backend]
        torch_library.opcheck(op, arguments, test_utils=checks(case, backend))


@pytest.mark.parametrize(("op", "overload"), sorted((op, o) for op in SCHEMAS for o in set(OVERLOADS.values())))
def test_tags(op, overload):
    tags = getattr(getattr(torch.ops.fastadv, op), overload).tags
    assert torch.Tag.pt2_compliant_tag in tags
    assert torch.Tag.needs_fixed_stride_order in tags


def test_the_library_implements_these_schemas():
    require_backend("cpu")
    found = re.findall(rb"fastadv-schemas:([0-9a-f]{64})", (PACKAGE / "_cpu.so").read_bytes())
    assert {hash.decode() for hash in found} == {digest()}


REPORT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, fastadv
print(fastadv.__file__)
print(fastadv.backends()["cpu"])
print([str(w.message) for w in caught if "fastadv" in str(w.message)])
x = torch.rand(2, 3)
print(torch.equal(fastadv.project(x, x, eps=0.1), x))
"""


def test_a_stale_library_is_not_loaded(tmp_path):
    require_backend("cpu")
    library = copy_package(tmp_path) / "_cpu.so"
    content = library.read_bytes()
    stale = content.replace(digest().encode(), b"0" * 64)
    assert stale != content
    library.write_bytes(stale)
    finished = run_python(REPORT, tmp_path)
    assert finished.returncode == 0, finished.stderr
    file, reason, warned, works = finished.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    assert "stale" in reason
    assert "rebuild" in reason
    assert "stale" in warned
    assert works == "True"


def test_a_library_of_these_schemas_is_loaded(tmp_path):
    require_backend("cpu")
    copy_package(tmp_path)
    finished = run_python(REPORT, tmp_path)
    assert finished.stdout.splitlines()[1:] == ["available", "[]", "True"], finished.stderr


def test_a_file_that_is_no_library_is_a_reason(tmp_path):
    library = copy_package(tmp_path) / "_cpu.so"
    library.write_bytes(b"fastadv-schemas:" + digest().encode() + b"and nothing else")
    finished = run_python(REPORT, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "cannot be loaded" in finished.stdout.splitlines()[1]
    library.write_bytes(b"")
    finished = run_python(REPORT, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "rebuild" in finished.stdout.splitlines()[1]


# A GPU, as far as it is asked for before a library is loaded.
WITH_GPU = """
import torch
torch.cuda.is_available, torch.version.cuda = lambda: True, "13.0"
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"fastadv-schemas:" + b"0" * 64, "stale"),
        (b"fastadv-schemas:" + digest().encode(), "cannot be loaded"),
        (None, ""),
    ],
    ids=["stale", "no library", "not built"],
)
def test_a_cuda_library_that_does_not_serve_is_missed_where_a_gpu_is(content, said, tmp_path):
    require_backend("cpu")
    library = copy_package(tmp_path) / "_cuda.so"
    library.unlink(missing_ok=True)
    if content is not None:
        library.write_bytes(content)
    finished = run_python(WITH_GPU + REPORT, tmp_path)
    assert finished.returncode == 0, finished.stderr
    warned = finished.stdout.splitlines()[2]
    assert ("fastadv runs without its CUDA library" in warned) == (content is not None)
    assert said in warned


INCOMPLETE = """
import torch
has = torch._C._dispatch_has_kernel_for_dispatch_key
torch._C._dispatch_has_kernel_for_dispatch_key = lambda name, key: name != "fastadv::mix" and has(name, key)
"""


def test_a_library_that_lacks_an_op_serves_none(tmp_path):
    require_backend("cpu")
    copy_package(tmp_path)
    finished = run_python(INCOMPLETE + REPORT, tmp_path)
    assert finished.returncode == 0, finished.stderr
    _, reason, warned, works = finished.stdout.splitlines()
    assert "_cpu.so has no mix; rebuild" in reason
    assert reason in warned
    assert works == "True"
    served = run_python(INCOMPLETE + SERVING, tmp_path)
    assert served.stdout.strip() == "reference", served.stderr


def test_unknown_backend():
    message = r"use_backend: name must be one of .*'triton'.*, got 'tritn'"
    with pytest.raises(ValueError, match=message), fastadv.use_backend("tritn"):
        pass


def test_unavailable_backend_says_why():
    if fastadv.backends()["cuda"] == "available":
        pytest.skip("CUDA is available")
    with pytest.raises(RuntimeError, match=re.escape(fastadv.backends()["cuda"])), fastadv.use_backend("cuda"):
        pass


def test_backends_nest_and_are_restored():
    outside = dispatch.serving("cpu")
    with fastadv.use_backend("reference"):
        with fastadv.use_backend("triton"):
            assert dispatch.serving("cpu") == "triton"
        assert dispatch.serving("cpu") == "reference"
    assert dispatch.serving("cpu") == outside


@pytest.mark.parametrize(("name", "error"), [("triton", KeyError), ("nonsense", ValueError)])
def test_the_backend_is_restored_after_an_error(name, error):
    with fastadv.use_backend("reference"):
        with pytest.raises(error), fastadv.use_backend(name):
            raise KeyError
        assert dispatch.serving("cpu") == "reference"


def test_a_backend_refuses_tensors_of_another_device(backend):
    if backend == "reference":
        pytest.skip("the reference runs on every device")
    x = torch.rand(2, 3, device="meta")
    with pytest.raises(RuntimeError, match=f"fastadv.project: backend '{backend}' was asked for, but .*meta"):
        fastadv.project(x, x, eps=0.1)


SERVING = """
import torch, fastadv
from fastadv.ops.dispatch import serving
print(serving("cpu"))
fastadv.project(torch.rand(2, 3), torch.rand(2, 3), eps=0.1)
"""


def test_the_environment_forces_a_backend(tmp_path):
    finished = run_python(SERVING, tmp_path, FASTADV_BACKEND="reference")
    assert finished.stdout.strip() == "reference", finished.stderr


@pytest.mark.parametrize(("name", "error"), [("nonsense", "ValueError"), ("cuda", "RuntimeError")])
def test_the_environment_cannot_force_what_is_not_there(name, error, tmp_path):
    if fastadv.backends().get(name) == "available":
        pytest.skip(f"{name} is available")
    finished = run_python(SERVING, tmp_path, FASTADV_BACKEND=name)
    assert finished.returncode != 0
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith(error)
    assert name in last


def test_report_names_every_op_and_what_serves_it(backend):
    report = dispatch.report()
    for op in SCHEMAS:
        assert re.search(rf"^{op}\s+{backend}\b", report, re.MULTILINE)
    for name, state in fastadv.backends().items():
        assert re.search(rf"^{name}\s+{re.escape(state)}$", report, re.MULTILINE)


def test_the_step_in_place_bumps_the_version_counter(backend):
    x = torch.rand(2, 3)
    before = x._version
    assert fastadv.pgd_step_(x, x.clone(), x.clone(), eps=0.1, step_size=0.1) is x
    assert x._version > before


def test_autograd_notices_the_step_in_place(backend):
    x, weight = torch.rand(2, 3), torch.rand(2, 3, requires_grad=True)
    product = (x * weight).sum()
    fastadv.pgd_step_(x, x.clone(), x.clone(), eps=0.1, step_size=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
