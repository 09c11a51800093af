"""No loop waits for a device: nothing it computes is read back by the host."""

import pytest
import torch
from torch import nn

import fastadv
from fastadv.attacks import pgd, svgd
from fastadv.attacks.model import values
from tests.attacks.every_attack import ATTACKS, QUEUED, every_attack_but
from tests.attacks.host_reads import HostReads

compiled = pytest.mark.skipif(
    fastadv.backends()["cpu"] != "available", reason="the reference looks at targets with operations of its own"
)


def reads(function, *args, **keywords):
    with HostReads() as probe:
        function(*args, **keywords)
    return probe.found


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0),
        lambda x: x.masked_select(x > 0),
        lambda x: x.index_put((x > 0,), torch.tensor(0.0)),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(x.long(), 0),
    ],
)
def test_the_probe_sees(read):
    assert reads(read, torch.ones(3))


def test_the_probe_sees_copies_to_the_host():
    on_device, on_host = torch.ones(3, device="meta"), torch.ones(3)
    waits = HostReads._waits
    assert waits(torch.ops.aten._to_copy.default, [on_device], on_host)
    assert waits(torch.ops.aten.copy_.default, [on_host, on_device], on_host)
    assert not waits(torch.ops.aten._to_copy.default, [on_host], on_device)
    assert not waits(torch.ops.aten.copy_.default, [on_device, on_host], on_device)


def test_the_probe_sees_into_a_loop(network, images, labels, as_on_a_device):
    class Peeks(nn.Module):
        def forward(self, x):
            return network(x) * (2.0 if x.mean() > 0 else 1.0)

    assert len(reads(pgd, Peeks(), images, labels, eps=0.1, steps=3)) == 3
    peeking = reads(pgd, network, images, eps=0.1, steps=2, loss=lambda z: z.sum(1) / z.abs().max().item())
    assert len(peeking) == 2


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Values that are checked where reading them costs nothing are not read, as on a device."""
    monkeypatch.setattr(values, "readable", lambda x, check: bool(check))


@compiled
@every_attack_but("of each", *QUEUED)
def test_no_loop_reads_a_value(attack, network, images, labels, as_on_a_device):
    assert reads(attack, network, images, labels) == []
    assert reads(attack, network, images, labels, seed=torch.tensor(3), sample_ids=torch.arange(6)) == []


@compiled
@pytest.mark.parametrize("attack", [pgd, svgd])
def test_values_are_checked_before_the_loop_and_nowhere_unless_asked(attack, network, images, labels):
    def found(steps, **how):
        return reads(attack, network, images, labels, eps=0.1, steps=steps, **how)

    assert found(1)
    assert found(5) == found(1)
    assert found(5, check=True) == found(1)
    assert found(5, check=False) == []


@compiled
@pytest.mark.parametrize("attack", [pgd, svgd])
def test_arguments_on_the_host_are_looked_at_before_the_loop(attack, network, images, labels):
    eps = torch.full([6], 0.1)

    def found(steps):
        return reads(attack, network, images, labels, eps=eps, step_size=eps, steps=steps)

    assert found(1)  # their values are checked
    assert found(5) == found(1)
    assert found(torch.arange(6)) == found(1)


@every_attack_but(*QUEUED)
def test_no_loop_reads_a_value_of_a_device(attack, network, images, labels):
    """On the meta device there is no value to read: an item(), a branch on a tensor or a boolean index raises."""
    network, x, y = network.to("meta"), images.to("meta"), labels.to("meta")
    for target in (y, None):
        assert reads(attack, network, x, target, seed=0) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to wait for")
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in QUEUED])
def test_nothing_waits_for_the_device(name, network, images, labels):
    network, x, y = network.cuda(), images.cuda(), labels.cuda()
    ATTACKS[name](network, x, y)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ATTACKS[name](network, x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")
