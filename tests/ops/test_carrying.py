"""The layer between tests on the CPU and a GPU's backend, here with the CPU in the place of the GPU."""

from __future__ import annotations

import pytest
import torch

import fastadv
from fastadv.ops import dispatch
from tests.ops.carrying import carried, carrying


@pytest.fixture
def seen(monkeypatch):
    """The arguments that reach the reference of the step in place."""
    op = dispatch._ops["pgd_step_"]
    real, arguments = op._overloads["reference"], []

    def recorded(*given):
        arguments.append(given)
        return real(*given)

    recorded._schema = real._schema
    monkeypatch.setitem(op._overloads, "reference", recorded)
    return arguments


def test_ops_get_copies_with_their_neighbours_and_bring_back_what_they_wrote(seen):
    buffer = torch.full([40], 7.0)
    x = buffer[5:29].view(2, 3, 4).copy_(torch.rand(2, 3, 4))
    grad, x0 = torch.randn(2, 3, 4), x.clone()
    expected = fastadv.pgd_step(x, grad, x0, eps=0.1, step_size=0.02)
    with carrying("reference", "cpu"), fastadv.use_backend("reference"):
        assert fastadv.pgd_step_(x, grad, x0, eps=0.1, step_size=0.02) is x
    assert torch.equal(x, expected)
    assert (buffer[:5] == 7).all()
    assert (buffer[29:] == 7).all()
    copy = seen[0][0]
    assert copy.data_ptr() != x.data_ptr()
    assert (copy.storage_offset(), copy.stride()) == (5, x.stride())
    assert copy.untyped_storage().nbytes() == buffer.untyped_storage().nbytes()


def test_what_is_written_beside_a_slice_shows():
    def writes_too_much(x, *others):
        x.as_strided([4], [1], 0).fill_(1.0)

    writes_too_much._schema = torch.ops.fastadv.pgd_step_.default._schema
    buffer = torch.zeros(6)
    carried(writes_too_much, "cpu")(buffer[2:4], *[None] * 11)
    assert buffer.tolist() == [1, 1, 1, 1, 0, 0]


def test_gradients_come_back_too():
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    with carrying("reference", "cpu"), fastadv.use_backend("reference"):
        loss = fastadv.kl_distill(student, teacher, reduction="none").sum()
    loss.backward()
    _, expected, _ = fastadv.kl_distill_value_and_grad(student, teacher)
    torch.testing.assert_close(student.grad, expected)


def test_afterwards_nothing_is_carried(seen):
    x = torch.rand(2, 3)
    with carrying("reference", "cpu"):
        pass
    with fastadv.use_backend("reference"):
        fastadv.pgd_step_(x, x.clone(), x.clone(), eps=0.1, step_size=0.02)
    assert seen[0][0] is x
