"""Losses of logits with more dimensions than [N, C], what they leave out, soft targets and other ways of giving one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv

N, C, H, W = 2, 5, 3, 4
REDUCTIONS = ("none", "sum", "mean", "batchmean")
# By name: the loss of student, teacher and target, and whether it has a target.
LOSSES = {
    "kl_distill": (lambda s, t, y, **kw: fastadv.kl_distill(s, t, temperature=2.0, **kw), False),
    "kl_distill-reverse": (lambda s, t, y, **kw: fastadv.kl_distill(s, t, direction="reverse", **kw), False),
    "js_distill": (lambda s, t, y, **kw: fastadv.js_distill(s, t, **kw), False),
    "igdm_loss": (lambda s, t, y, **kw: fastadv.igdm_loss(s, s.flip(0), t, t.flip(0), **kw), False),
    "kd_loss": (lambda s, t, y, **kw: fastadv.kd_loss(s, t, y, temperature=2.0, alpha=0.7, **kw), True),
    "kd_loss-smooth": (lambda s, t, y, **kw: fastadv.kd_loss(s, t, y, label_smoothing=0.2, **kw), True),
    "dkd_loss": (lambda s, t, y, **kw: fastadv.dkd_loss(s, t, y, **kw), True),
    "loss_matching": (lambda s, t, y, **kw: fastadv.loss_matching(s, t, y, **kw), True),
}
EACH = pytest.mark.parametrize("loss", [loss for loss, _ in LOSSES.values()], ids=LOSSES)
TARGETED = {name: loss for name, (loss, targeted) in LOSSES.items() if targeted}


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(N, C, H, W, generator=generator) for _ in range(2))
    target = torch.randint(C, (N, H, W), generator=generator)
    return student, teacher, target, torch.rand(N, H, W, generator=generator)


def rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, C)


def divided(value: Tensor, reduction: str, name: str) -> Tensor:
    """Reduce the losses of positions as a loss of [N, C, H, W] does."""
    classes = C if name.startswith(("kl", "js")) else 1
    divisor = {"none": 1, "sum": 1, "mean": N * H * W * classes, "batchmean": N}[reduction]
    return (value if reduction == "none" else value.sum()) / divisor


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("class_dim", [1, -1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_position_is_a_row(name, class_dim, reduction, backend):
    loss, _ = LOSSES[name]
    student, teacher, target, weight = drawn()
    flat = [rows(student).requires_grad_(), rows(teacher)]
    each = loss(*flat, target.flatten(), reduction="none", weight=weight.flatten())
    if name == "igdm_loss":
        each = fastadv.igdm_loss(
            flat[0], rows(student.flip(0)), flat[1], rows(teacher.flip(0)), reduction="none", weight=weight.flatten()
        )
    expected = divided(each.view(N, H, W), reduction, name)
    shaped = [x.movedim(1, class_dim).detach().requires_grad_() for x in (student, teacher)]
    actual = loss(*shaped, target, weight=weight, reduction=reduction, class_dim=class_dim)
    torch.testing.assert_close(actual, expected)
    (grad,) = torch.autograd.grad(actual.sum(), shaped[0])
    assert grad.shape == shaped[0].shape
    if name != "igdm_loss":
        (expected_grad,) = torch.autograd.grad(expected.sum(), flat[0])
        torch.testing.assert_close(rows(grad.movedim(class_dim, 1)), expected_grad)


@pytest.mark.parametrize("class_dim", [None, 1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", TARGETED)
def test_ignored_positions_are_as_if_they_were_not_there(name, reduction, class_dim, backend):
    student, teacher, target, weight = drawn()
    if class_dim is None:
        student, teacher, target, weight = rows(student), rows(teacher), target.flatten(), weight.flatten()
    kept = target != 2
    target = torch.where(kept, target, -100)
    bad = student.movedim(1, -1).clone()
    bad[~kept] = torch.nan
    student = bad.movedim(-1, 1).requires_grad_()
    ignoring: dict[str, Any] = {"ignore_index": -100, "class_dim": class_dim}
    actual = TARGETED[name](student, teacher, target, weight=weight, reduction=reduction, **ignoring)
    each = TARGETED[name](
        student.movedim(1, -1)[kept], teacher.movedim(1, -1)[kept], target[kept], weight=weight[kept], reduction="none"
    )
    divisor = {"none": 1, "sum": 1, "mean": int(kept.sum()), "batchmean": student.shape[0]}[reduction]
    if reduction == "none":
        torch.testing.assert_close(actual[kept], each)
        assert not actual[~kept].any()
    else:
        torch.testing.assert_close(actual, each.sum() / divisor)
    (grad,) = torch.autograd.grad(actual.sum(), student)
    assert not grad.movedim(1, -1)[~kept].any()
    assert grad.movedim(1, -1)[kept].abs().amin() > 0


def test_kd_loss_ignores_as_cross_entropy_does(backend):
    student, teacher, target, _ = drawn()
    target[0, 0] = -100
    actual = fastadv.kd_loss(student, teacher, target, alpha=0.0, class_dim=1, ignore_index=-100)
    torch.testing.assert_close(actual, F.cross_entropy(student, target))
    smooth = {"label_smoothing": 0.3}
    actual = fastadv.kd_loss(student, teacher, target, alpha=0.0, class_dim=1, ignore_index=-100, **smooth)
    torch.testing.assert_close(actual, F.cross_entropy(student, target, **smooth))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("normalised", [True, False])
def test_soft_targets_are_those_of_cross_entropy(normalised, label_smoothing, reduction, backend):
    student, teacher = (rows(x).double().requires_grad_() for x in drawn()[:2])
    target = torch.rand(student.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target[:, 3] = 0
    if normalised:
        target /= target.sum(1, keepdim=True)
    else:
        target[0] = 0
    keywords: dict[str, Any] = {"label_smoothing": label_smoothing, "reduction": reduction}
    kl = fastadv.kl_distill(student, teacher, temperature=3.0, reduction="none")
    kl = kl if reduction == "none" else kl.sum() if reduction == "sum" else kl.mean()
    expected = 0.4 * F.cross_entropy(student, target, **keywords) + 0.6 * kl
    actual = fastadv.kd_loss(student, teacher, target, temperature=3.0, alpha=0.6, **keywords)
    torch.testing.assert_close(actual, expected)
    for grad, expected_grad in zip(
        *(torch.autograd.grad(loss.sum(), (student, teacher)) for loss in (actual, expected)), strict=True
    ):
        torch.testing.assert_close(grad, expected_grad)


def test_smoothed_classes_are_those_of_cross_entropy(backend):
    student, teacher, target, weight = (x.flatten(0, 1)[:, 0] if x.dim() == 3 else rows(x)[:6] for x in drawn())
    actual = fastadv.kd_loss(student, teacher, target, alpha=0.0, label_smoothing=0.2, weight=weight, reduction="none")
    torch.testing.assert_close(actual, weight * F.cross_entropy(student, target, label_smoothing=0.2, reduction="none"))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_reverse_divergence_exchanges_the_networks(reduction, backend):
    student, teacher = (rows(x).requires_grad_() for x in drawn()[:2])
    keywords: dict[str, Any] = {"temperature": 2.5, "reduction": reduction}
    actual = fastadv.kl_distill(student, teacher, direction="reverse", **keywords)
    assert torch.equal(actual, fastadv.kl_distill(teacher, student, **keywords))
    value, grad_student, grad_teacher = fastadv.kl_distill_value_and_grad(
        student, teacher, temperature=2.5, direction="reverse", teacher_grad=True
    )
    exchanged = fastadv.kl_distill_value_and_grad(teacher, student, temperature=2.5, teacher_grad=True)
    assert torch.equal(value, exchanged[0])
    assert torch.equal(grad_student, exchanged[2])
    assert torch.equal(grad_teacher, exchanged[1])
    alone = fastadv.kl_distill_value_and_grad(student, teacher, temperature=2.5, direction="reverse")
    assert torch.equal(alone[1], grad_student)
    assert alone[2] is None


@EACH
def test_a_float_weight_multiplies(loss, backend):
    student, teacher, target, _ = drawn()
    inputs = (rows(student), rows(teacher), target.flatten())
    for reduction in REDUCTIONS:
        once, thrice = (loss(*inputs, weight=weight, reduction=reduction) for weight in (None, 3.0))
        torch.testing.assert_close(thrice, 3 * once)
    with pytest.raises(TypeError, match="weight must be a float, got str"):
        loss(*inputs, weight="3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_temperature_without_dimensions(dtype, backend):
    student, teacher, target, _ = drawn()
    s, t, y = rows(student), rows(teacher), target.flatten()
    temperature = torch.tensor(2.5, dtype=dtype)
    assert torch.equal(fastadv.kl_distill(s, t, temperature=temperature), fastadv.kl_distill(s, t, temperature=2.5))
    assert torch.equal(fastadv.js_distill(s, t, temperature=temperature), fastadv.js_distill(s, t, temperature=2.5))
    assert torch.equal(fastadv.kd_loss(s, t, y, temperature=temperature), fastadv.kd_loss(s, t, y, temperature=2.5))
    assert torch.equal(fastadv.dkd_loss(s, t, y, temperature=temperature), fastadv.dkd_loss(s, t, y, temperature=2.5))


S, T, Y, _ = drawn()
R = rows(S)
BAD = (
    (lambda: fastadv.kl_distill(S, T), ValueError, r"student must have shape \[N, C\].*movedim\(class_dim, -1\)"),
    (lambda: fastadv.kl_distill(S, T, class_dim=0), ValueError, "class_dim must be a dimension of student behind its"),
    (lambda: fastadv.kl_distill(S, T, class_dim=4), ValueError, "class_dim must be a dimension of student behind its"),
    (lambda: fastadv.kl_distill(S, T, class_dim=-4), ValueError, "class_dim must be a dimension of student"),
    (lambda: fastadv.kl_distill(S, T, class_dim=1.0), TypeError, "class_dim must be an int or None, got float"),
    (lambda: fastadv.kl_distill(S, T[:1], class_dim=1), ValueError, "teacher must have the shape of student"),
    (lambda: fastadv.kl_distill(S, T, class_dim=1, weight=torch.ones(2)), ValueError, r"weight must have shape \[2, 3"),
    (lambda: fastadv.kl_distill(R, R, direction="back"), ValueError, "direction must be one of 'forward', 'reverse'"),
    (
        lambda: fastadv.kl_distill(R, R, temperature=torch.ones(2)),
        ValueError,
        "temperature must be a float or a tensor",
    ),
    (
        lambda: fastadv.kl_distill(R, R, temperature=torch.tensor(1.0, requires_grad=True)),
        ValueError,
        "temperature requires grad",
    ),
    (lambda: fastadv.kl_distill(R, R, temperature=torch.tensor(0.0)), ValueError, "temperature must be positive"),
    (
        lambda: fastadv.kl_distill(R, R, temperature=torch.tensor(1.0, device="meta")),
        ValueError,
        r"temperature must be a float or on the CPU, got a tensor on meta.*float\(temperature\)",
    ),
    (lambda: fastadv.kd_loss(S, T, Y[:1], class_dim=1), ValueError, r"target must have shape \[2, 3, 4\]"),
    (lambda: fastadv.kd_loss(S, T, Y.int(), class_dim=1), TypeError, "target must be an int64 tensor"),
    (lambda: fastadv.kd_loss(R, R, R.abs(), ignore_index=1), TypeError, "target must be an int64 tensor"),
    (lambda: fastadv.kd_loss(R, R, R.abs(), ignore_index=1), TypeError, "of classes with ignore_index, got .*float32"),
    (lambda: fastadv.kd_loss(R, R, [0], ignore_index=1), TypeError, "target must be an int64 tensor, got list"),
    (lambda: fastadv.kd_loss(S, T, [0], class_dim=1), TypeError, "target must be an int64 tensor, got list"),
    (lambda: fastadv.kd_loss(R, R, Y.flatten(), ignore_index=1.0), TypeError, "ignore_index must be an int or None"),
    (lambda: fastadv.kd_loss(R, R, R), ValueError, "target must not be negative as probabilities, got -"),
    (lambda: fastadv.kd_loss(R, R, R[:1].abs()), ValueError, "target must have the shape of student"),
    (lambda: fastadv.kd_loss(R, R, R.abs().requires_grad_()), ValueError, "target requires grad"),
    (
        lambda: fastadv.kd_loss(R, R, Y.flatten(), label_smoothing=1.5),
        ValueError,
        r"label_smoothing must lie in \[0, 1",
    ),
    (lambda: fastadv.kd_loss(R, R, Y.flatten() + 5, label_smoothing=0.1), ValueError, r"target must lie in \[0, 5\)"),
    (lambda: fastadv.attack_loss(S, Y), ValueError, r"logits must have shape \[N, C\].*flatten\(0, -2\)"),
    (lambda: fastadv.nn.KDLoss(label_smoothing=2.0), ValueError, "label_smoothing must lie in"),
    (lambda: fastadv.nn.KLDistillLoss(direction="up"), ValueError, "direction must be one of"),
)


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_modules_pass_on_what_they_are_given():
    soft = R.softmax(1)
    assert torch.equal(
        fastadv.nn.KLDistillLoss(2.0, direction="reverse", class_dim=1)(S, T),
        fastadv.kl_distill(S, T, temperature=2.0, direction="reverse", class_dim=1),
    )
    assert torch.equal(fastadv.nn.JSDistillLoss(class_dim=1)(S, T), fastadv.js_distill(S, T, class_dim=1))
    assert torch.equal(
        fastadv.nn.KDLoss(label_smoothing=0.1, class_dim=1, ignore_index=2)(S, T, Y),
        fastadv.kd_loss(S, T, Y, label_smoothing=0.1, class_dim=1, ignore_index=2),
    )
    assert torch.equal(fastadv.nn.KDLoss()(R, R, soft, weight=2.0), fastadv.kd_loss(R, R, soft, weight=2.0))
    for module, function in (
        (fastadv.nn.DKDLoss, fastadv.dkd_loss),
        (fastadv.nn.LossMatchingLoss, fastadv.loss_matching),
    ):
        keywords = {"class_dim": 1, "ignore_index": 2}
        assert torch.equal(module(**keywords)(S, T, Y), function(S, T, Y, **keywords))
    assert torch.equal(fastadv.nn.IGDMLoss(class_dim=1)(S, T, S, T), fastadv.igdm_loss(S, T, S, T, class_dim=1))
    assert repr(fastadv.nn.KLDistillLoss(class_dim=-1)) == (
        "KLDistillLoss(temperature=1.0, reduction='batchmean', class_dim=-1)"
    )
