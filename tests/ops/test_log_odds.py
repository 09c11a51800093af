"""attack_loss "log_odds" at every scale of the logits, and "ce", which is a function of it, down to tiny numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import fastadv

KINDS = ("log_odds", "ce")


def exact(logits: Tensor, target: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return value and gradient from float64 and one formula a row."""
    z = logits.double()
    others = z.scatter(1, target[:, None], -math.inf)
    odds = others.logsumexp(1) - z.gather(1, target[:, None]).squeeze(1)
    direction = others.softmax(1).scatter(1, target[:, None], -1.0)
    if kind == "log_odds":
        return odds, direction
    likely = 1 / (1 + (-odds.abs()).exp())
    slope = torch.where(odds > 0, likely, odds.exp() * likely)
    return odds.clamp(min=0) + (-odds.abs()).exp().log1p(), slope[:, None] * direction


def drawn(classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    return 3 * torch.randn(8, classes, generator=generator), torch.randint(classes, (8,), generator=generator)


@pytest.mark.parametrize("classes", [2, 10, 200])
@pytest.mark.parametrize(("factor", "offset"), [(1, 0), (10, 0), (100, 0), (1000, 0), (1, 1e4), (100, -1e4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_scale_of_the_logits_is_too_large(dtype, factor, offset, classes, backend):
    logits, target = drawn(classes)
    logits = (factor * logits + offset).to(dtype)
    value, grad = fastadv.attack_loss_value_and_grad(logits, target, kind="log_odds")
    expected, direction = exact(logits, target, "log_odds")
    assert grad.abs().amax(1).min() > 0.001
    torch.testing.assert_close(grad.double(), direction, rtol=0, atol=2e-6)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_targeted_attack_ascends_the_negative(kind, backend):
    logits, target = drawn(10)
    value, grad = fastadv.attack_loss_value_and_grad(logits, target, kind=kind)
    towards, descent = fastadv.attack_loss_value_and_grad(logits, target, kind=kind, targeted=True)
    assert torch.equal(towards, -value)
    assert torch.equal(descent, -grad)


def test_of_two_classes_the_log_odds_are_the_difference(backend):
    logits, _ = drawn(2)
    target = torch.zeros(8, dtype=torch.int64)
    value, grad = fastadv.attack_loss_value_and_grad(logits, target, kind="log_odds")
    assert torch.equal(value, logits[:, 1] - logits[:, 0])
    assert torch.equal(grad, torch.tensor([[-1.0, 1.0]]).expand(8, 2))


def test_one_class_has_no_odds():
    message = r"logits must have shape \[N, C\] with C of at least 2 for kind='log_odds', got \[4, 1\]"
    for function in (fastadv.attack_loss, fastadv.attack_loss_value_and_grad):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), kind="log_odds")


ROWS = ([0.0, -95.0, -200.0], [0.0, 0.0, -95.0], [0.0, -103.0, -103.5], [40.0, -50.0, -60.0], [-90.0, 0.0, -95.0])


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_flushed_to_zero(kind, row, backend):
    """Within two of the smallest float32 numbers, where eager PyTorch gives zero for the target."""
    logits = torch.tensor([row])
    for target in torch.arange(3).split(1):
        value, grad = fastadv.attack_loss_value_and_grad(logits, target, kind=kind)
        expected, direction = exact(logits, target, kind)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=2 * 2.0**-149)
        torch.testing.assert_close(grad.double(), direction, rtol=1e-5, atol=2 * 2.0**-149)


def test_the_smallest_gradient_of_a_softmax(backend):
    """As in eager PyTorch: the gradient of a class at -95 is 5.5e-42, here that of the distillation too."""
    student = torch.tensor([[0.0, -95.0]])
    _, grad, _ = fastadv.kl_distill_value_and_grad(student, torch.tensor([[0.0, -300.0]]))
    assert grad[0, 1] == pytest.approx(math.exp(-95), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_ruled_out_takes_no_part(kind, backend):
    logits = torch.tensor([[1.0, -math.inf, 2.0], [0.5, 1.0, -math.inf]])
    value, grad = fastadv.attack_loss_value_and_grad(logits, torch.tensor([0, 1]), kind=kind)
    kept = torch.stack((logits[0, [0, 2]], logits[1, [0, 1]]))
    expected, direction = exact(kept, torch.tensor([0, 1]), kind)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad.double()[[0, 0, 1, 1], [0, 2, 0, 1]].view(2, 2), direction, rtol=1e-6, atol=1e-7)
    assert grad[0, 1] == grad[1, 2] == 0


def test_with_all_others_ruled_out_nothing_is_left_to_gain(backend):
    logits = torch.tensor([[-math.inf, 2.0, -math.inf]])
    value, grad = fastadv.attack_loss_value_and_grad(logits, torch.tensor([1]), kind="log_odds")
    assert value == -math.inf
    assert grad.tolist() == [[0, -1, 0]]
    value, grad = fastadv.attack_loss_value_and_grad(logits, torch.tensor([1]))
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("row", [[math.nan, 0.0, 1.0], [0.0, math.nan, 1.0], [0.0, math.inf, 1.0]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_of_an_undefined_loss_every_derivative_is(kind, row, backend):
    value, grad = fastadv.attack_loss_value_and_grad(torch.tensor([row]), torch.tensor([0]), kind=kind)
    assert value.isnan().all()
    assert grad.isnan().all()
