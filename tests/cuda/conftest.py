"""The CUDA kernels behind fastadv's public functions: on the simulator, built once a session, and on a GPU if any."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fastadv.ops import dispatch
from fastadv.ops.schemas import SCHEMAS
from tests.cuda.simulated_library import build, host_compiler
from tests.ops.available import computing_on
from tests.ops.cases import FUSED

ON_GPU = [pytest.param(name, id=f"on_gpu_{name}") for name in ("cuda", "triton") if torch.cuda.is_available()]


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """Library whose ops are registered as ``fastadv_simulated::<op>``."""
    compiler = host_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler to build the simulated kernels with")
    path = build(compiler, tmp_path_factory.mktemp("simulated"))
    schemas = torch.library.Library("fastadv_simulated", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        schemas.define(name + schema)
    torch.ops.load_library(path)
    library = ctypes.CDLL(str(path))
    library.simulator_launches.restype = ctypes.c_int64
    library.simulator_barriers.restype = ctypes.c_int64
    library.simulator_overruns.restype = ctypes.c_int64
    library.simulator_has_clusters.argtypes = [ctypes.c_bool]
    yield library
    schemas._destroy()


@pytest.fixture
def simulated(simulator: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every op computes with its CUDA kernels; at the end, nothing was written past the end of an output."""
    for name, op in dispatch._ops.items():
        monkeypatch.setattr(op, "_default", getattr(torch.ops.fastadv_simulated, name).default)
    yield
    assert simulator.simulator_overruns() == 0, "a kernel wrote past the end of an output"


@pytest.fixture(params=[True, False], ids=["clusters", "no_clusters"])
def clusters(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the simulated GPU runs clusters, as from sm_90 on; a real one does as it does, and is asked once."""
    if request.node.callspec.params.get("fused", "simulated") != "simulated":
        if not request.param:
            pytest.skip("a GPU is not told to do without clusters")
        yield True
        return
    simulator: ctypes.CDLL = request.getfixturevalue("simulator")
    simulator.simulator_has_clusters(request.param)
    yield request.param
    simulator.simulator_has_clusters(True)


@pytest.fixture(params=["simulated", *ON_GPU])
def fused(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Public functions, computed by the CUDA kernels; on a GPU by those of Triton as well."""
    if request.param == "simulated":
        request.getfixturevalue("simulated")
        yield FUSED
    else:
        with computing_on(request.param):
            yield FUSED


@pytest.fixture
def launches(simulator: ctypes.CDLL, simulated: None) -> Callable[[Callable[[], object]], int]:
    """Counts the launches of a call."""

    def count(call: Callable[[], object]) -> int:
        before = simulator.simulator_launches()
        call()
        return simulator.simulator_launches() - before

    return count
