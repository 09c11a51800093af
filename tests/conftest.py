"""What has to be set before triton or fastadv is imported, and how many threads wait how, before torch is; peers."""

import importlib
import os
import sys
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads that spin while they wait keep the cores from other processes: from those that share the tests, and on a busy
# machine from the very threads they wait for.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.pop("FASTADV_BACKEND", None)

import torch

# Without a GPU, Triton's kernels run on CPU tensors, so that one session tests every backend.
os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"


@pytest.fixture
def torchattacks():
    return peer("torchattacks")


@pytest.fixture
def pyautoattack():
    return peer("pyautoattack")


@pytest.fixture
def foolbox():
    return peer("foolbox")


@pytest.fixture
def adv_lib(monkeypatch):
    """Its attacks.

    To import any of them it asks for torchvision, for the networks of a perceptual distance, and for visdom, for plots.
    Nothing that is compared here uses either: where they cannot be imported, empty modules stand in.
    """
    peer("adv_lib")
    for name in ("torchvision", "visdom"):
        try:
            importlib.import_module(name)
        except Exception:  # a torchvision made for another torch raises RuntimeError
            empty = ModuleType(name)
            empty.models = None
            monkeypatch.setitem(sys.modules, name, empty)
    return importlib.import_module("adv_lib.attacks")


def peer(name: str) -> ModuleType:
    """The library of that name, which `make test` installs; without it the test is skipped."""
    return pytest.importorskip(name, reason=f"{name} is not installed (make test installs it)")


@pytest.fixture
def data_parallel():
    """DistributedDataParallel, in a group of this process alone.

    The group is torch's own for tests. Gloo's has threads, which a process that leaves the group waits for, with the
    interpreter's lock that they may need.
    """
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def as_it_is(_, bucket):
        gradient = torch.futures.Future()
        gradient.set_result(bucket.buffer())
        return gradient

    def wrapped(network):
        parallel = DistributedDataParallel(network)
        parallel.register_comm_hook(None, as_it_is)
        return parallel

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    yield wrapped
    distributed.destroy_process_group()


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Values that are checked where reading them costs nothing are not read, as on a device."""
    from fastadv.attacks.model import values

    monkeypatch.setattr(values, "readable", lambda x, check: bool(check))
