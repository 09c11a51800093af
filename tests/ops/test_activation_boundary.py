"""activation_boundary_loss: the published formula, its edges, its layouts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastadv
from tests.ops.cases import Draw

NAN, INF = math.nan, math.inf


def activations(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (3, 4, 5, 6)) -> tuple[Tensor, Tensor]:
    draw = Draw(dtype, seed=6)
    return draw.normal(shape, 1.5), draw.gradient(shape)


def published(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Of each sample, as the method's authors write it."""
    inactive = ((student > -margin) & (teacher <= 0)).double()
    active = ((student <= margin) & (teacher > 0)).double()
    return ((student + margin) ** 2 * inactive + (student - margin) ** 2 * active).abs().flatten(1).sum(1)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0, 10.0])
def test_published_formula(margin, backend):
    student, teacher = activations()
    student.requires_grad_()
    expected = published(student, teacher, margin)
    loss = fastadv.activation_boundary_loss(student, teacher, margin=margin, reduction="none")
    torch.testing.assert_close(loss, expected)
    (expected_grad,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), student)[0], expected_grad)
    value, grad = fastadv.activation_boundary_loss_value_and_grad(student, teacher, margin=margin)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(grad, expected_grad)


def test_reductions_and_repdistillers_factor(backend):
    student, teacher = activations()
    each = published(student, teacher, 1.0)
    for reduction, expected in {"sum": each.sum(), "batchmean": each.mean(), "mean": each.mean()}.items():
        torch.testing.assert_close(fastadv.activation_boundary_loss(student, teacher, reduction=reduction), expected)
    # Its layer 1 of 3, over a batch.
    theirs = 2.0 ** (1 - 3 + 1) * each.sum() / 3 / 1000 * 3
    factor = 3 / 1000 * 2.0 ** (1 - 3 + 1)
    torch.testing.assert_close(factor * fastadv.activation_boundary_loss(student, teacher), theirs)


def test_a_margin_a_sample(backend):
    student, teacher = activations()
    margins = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    each = fastadv.activation_boundary_loss(student, teacher, margin=margins, reduction="none")
    for n, margin in enumerate(margins.tolist()):
        torch.testing.assert_close(each[n], published(student, teacher, margin)[n])


def test_at_the_boundaries(backend):
    #                          active teacher                      | inactive, and one that is exactly zero
    student = torch.tensor([[1.0, 0.5, -2.0, INF, -INF, NAN, 3.0], [-1.0, -0.5, 2.0, -INF, INF, NAN, 3.0]])
    teacher = torch.tensor([[0.1, 0.1, 100.0, 0.1, 0.1, 0.1, NAN], [-0.1, 0.0, -INF, -0.1, -0.1, -0.1, NAN]])
    _, grad = fastadv.activation_boundary_loss_value_and_grad(student, teacher)
    expected = [[0, -1, -6, 0, -INF, NAN, 0], [0, 1, 6, 0, INF, NAN, 0]]
    torch.testing.assert_close(grad, torch.tensor(expected), equal_nan=True)
    pieces = [fastadv.activation_boundary_loss(student[:, i : i + 1], teacher[:, i : i + 1]) for i in range(7)]
    torch.testing.assert_close(torch.stack(pieces), torch.tensor([0, 0.25, 9, 0, INF, NAN, 0]), equal_nan=True)


def test_gradcheck(backend):
    # No pre-activation is close to the margin here, and the loss is quadratic elsewhere.
    student, teacher = activations(shape=(3, 7))
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: fastadv.activation_boundary_loss(s, teacher, margin=0.8), student, fast_mode=backend == "triton"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_channels_last_stays(dtype, backend):
    plain = activations(dtype)
    last = tuple(x.contiguous(memory_format=torch.channels_last) for x in plain)
    grads = []
    for student, teacher in (plain, last, (plain[0], last[1]), (last[0], plain[1])):
        leaf = student.detach().requires_grad_()
        loss = fastadv.activation_boundary_loss(leaf, teacher)
        (grad,) = torch.autograd.grad(3 * loss, leaf)
        assert grad.dtype is dtype
        assert grad.stride() == student.stride()
        _, value_grad = fastadv.activation_boundary_loss_value_and_grad(student, teacher)
        assert value_grad.stride() == student.stride()
        grads.append(grad)
    for grad in grads[1:]:
        assert torch.equal(grad, grads[0])


def test_channels_last_is_not_copied(monkeypatch):
    last = tuple(x.contiguous(memory_format=torch.channels_last) for x in activations())
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda *_, **__: pytest.fail("copied"))
    monkeypatch.setattr(torch.Tensor, "to", lambda *_, **__: pytest.fail("copied"))
    with fastadv.use_backend("reference"), torch.no_grad():
        fastadv.activation_boundary_loss(*last)


def test_losses_of_half_are_float32(backend):
    student, teacher = activations(torch.float16)
    value, grad = fastadv.activation_boundary_loss_value_and_grad(student, teacher)
    assert value.dtype is grad.dtype is torch.float32
    leaf = student.requires_grad_()
    fastadv.activation_boundary_loss(leaf, teacher.float()).backward()
    assert leaf.grad.dtype is torch.float16


def test_empty_batch(backend):
    nothing = torch.empty(0, 3, 2, 2, requires_grad=True)
    assert fastadv.activation_boundary_loss(nothing, nothing.detach()).isnan()
    loss = fastadv.activation_boundary_loss(nothing, nothing.detach(), reduction="sum")
    assert loss.item() == 0
    loss.backward()
    assert nothing.grad.shape == nothing.shape


def test_second_derivative_is_refused(backend):
    student, teacher = activations()
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(
            fastadv.activation_boundary_loss(student.requires_grad_(), teacher), student, create_graph=True
        )
