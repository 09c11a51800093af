"""Gradients of the losses: right, in the right precision, by the right backend, and refused where none is offered."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fastadv
from fastadv.ops.loss import scale_grad
from tests.ops.available import computing_on
from tests.ops.cases import CASES, FUSED, Draw

REDUCTIONS = ("none", "sum", "mean", "batchmean")
TARGET = torch.tensor([0, 3, 1, 3])


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = Draw(dtype, seed=2)
    return draw.normal((4, 4), 2.0).requires_grad_(), draw.normal((4, 4), 2.0).requires_grad_()


# Losses between two networks, by their public name.
BETWEEN = {
    "kl_distill": lambda s, t, **kwargs: fastadv.kl_distill(s, t, temperature=2.5, **kwargs),
    "kd_loss": lambda s, t, **kwargs: fastadv.kd_loss(s, t, TARGET, temperature=2.5, alpha=0.6, **kwargs),
    "js_distill": lambda s, t, **kwargs: fastadv.js_distill(s, t, temperature=2.5, **kwargs),
    "dkd_loss": lambda s, t, **kwargs: fastadv.dkd_loss(s, t, TARGET, temperature=2.5, alpha=0.6, beta=3.0, **kwargs),
    "loss_matching": lambda s, t, **kwargs: fastadv.loss_matching(s, t, TARGET, **kwargs),
}
WITHOUT_AUTOGRAD = {
    "kl_distill": lambda s, t, **kwargs: fastadv.kl_distill_value_and_grad(s, t, temperature=2.5, **kwargs),
    "kd_loss": lambda s, t, **kwargs: fastadv.kd_loss_value_and_grad(
        s, t, TARGET, temperature=2.5, alpha=0.6, **kwargs
    ),
    "js_distill": lambda s, t, **kwargs: fastadv.js_distill_value_and_grad(s, t, temperature=2.5, **kwargs),
    "dkd_loss": lambda s, t, **kwargs: fastadv.dkd_loss_value_and_grad(
        s, t, TARGET, temperature=2.5, alpha=0.6, beta=3.0, **kwargs
    ),
    "loss_matching": lambda s, t, **kwargs: fastadv.loss_matching_value_and_grad(s, t, TARGET, **kwargs),
}
ATTACKS = {
    "ce": {"target": TARGET},
    "kl": {"kind": "kl", "reference": pair()[1].detach()},
    "ce-targeted": {"target": TARGET, "targeted": True},
    "kl-targeted": {"kind": "kl", "reference": pair()[1].detach(), "targeted": True},
    "cw": {"target": TARGET, "kind": "cw"},
    "cw-targeted": {"target": TARGET, "kind": "cw", "targeted": True},
    "dlr": {"target": TARGET, "kind": "dlr"},
    "dlr-targeted": {"target": TARGET, "kind": "dlr", "reference": TARGET.flip(0), "targeted": True},
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", BETWEEN)
def test_gradcheck_by_student_and_teacher(name, reduction, weighted, backend):
    weight = torch.tensor([0.5, 0.0, 2.0, -1.0], dtype=torch.float64) if weighted else None
    fast = backend == "triton"  # One random direction in place of every element: the interpreter is slow.
    assert torch.autograd.gradcheck(
        lambda s, t: BETWEEN[name](s, t, reduction=reduction, weight=weight), pair(), fast_mode=fast
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck_of_igdm_loss(reduction, backend):
    responses = (*pair(), *(2 * x.detach().flip(0) for x in pair()))
    responses = tuple(x.detach().requires_grad_() for x in responses)
    fast = backend == "triton"
    assert torch.autograd.gradcheck(lambda *x: fastadv.igdm_loss(*x, reduction=reduction), responses, fast_mode=fast)
    value, *by_each = fastadv.igdm_loss_value_and_grad(*responses, teacher_grad=True)
    loss = fastadv.igdm_loss(*responses, reduction="none")
    torch.testing.assert_close(value, loss.detach())
    for one, other in zip(by_each, torch.autograd.grad(loss.sum(), responses), strict=True):
        torch.testing.assert_close(one, other)
    assert fastadv.igdm_loss_value_and_grad(*responses)[3:] == (None, None)


@pytest.mark.parametrize("keywords", ATTACKS.values(), ids=ATTACKS)
def test_gradcheck_of_attack_loss(keywords, backend):
    assert torch.autograd.gradcheck(
        lambda x: fastadv.attack_loss(x, **keywords), pair()[:1], fast_mode=backend == "triton"
    )


@pytest.mark.parametrize("name", BETWEEN)
def test_incoming_gradient_multiplies(name, backend):
    student, teacher = pair()
    loss = BETWEEN[name](student, teacher, reduction="none")
    incoming = torch.tensor([1.0, -3.0, 0.0, 0.25], dtype=torch.float64)
    unit = torch.autograd.grad(loss, (student, teacher), torch.ones_like(loss), retain_graph=True)
    scaled = torch.autograd.grad(loss, (student, teacher), incoming)
    for one, other in zip(unit, scaled, strict=True):
        torch.testing.assert_close(other, one * incoming[:, None])
    # A scalar loss, and an incoming gradient that is one number seen [N] times.
    (mean,) = torch.autograd.grad(7 * BETWEEN[name](student, teacher, reduction="none").sum(), student)
    torch.testing.assert_close(mean, 7 * unit[0])


@pytest.mark.parametrize("teacher_needs", [False, True])
@pytest.mark.parametrize("student_needs", [False, True])
@pytest.mark.parametrize("name", BETWEEN)
def test_only_gradients_that_are_needed(name, student_needs, teacher_needs, backend):
    student, teacher = (
        x.detach().requires_grad_(needed) for x, needed in zip(pair(), (student_needs, teacher_needs), strict=True)
    )
    loss = BETWEEN[name](student, teacher)
    assert loss.requires_grad == (student_needs or teacher_needs)
    if loss.requires_grad:
        loss.backward()
    both = pair()
    BETWEEN[name](*both).backward()
    for x, needed, expected in zip((student, teacher), (student_needs, teacher_needs), both, strict=True):
        assert (x.grad is not None) == needed
        if needed:
            torch.testing.assert_close(x.grad, expected.grad)


@pytest.mark.parametrize("name", BETWEEN)
def test_value_and_grad_is_autograd(name, backend):
    student, teacher = pair()
    loss = BETWEEN[name](student, teacher, reduction="none")
    grad_student, grad_teacher = torch.autograd.grad(loss.sum(), (student, teacher))
    value, student_grad, none = WITHOUT_AUTOGRAD[name](student, teacher)
    assert none is None
    *_, teacher_grad = WITHOUT_AUTOGRAD[name](student, teacher, teacher_grad=True)
    assert not value.requires_grad
    assert not student_grad.requires_grad
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(student_grad, grad_student, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(teacher_grad, grad_teacher, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keywords", ATTACKS.values(), ids=ATTACKS)
def test_attack_loss_value_and_grad_is_autograd(keywords, backend):
    logits, _ = pair()
    loss = fastadv.attack_loss(logits, **keywords)
    value, grad = fastadv.attack_loss_value_and_grad(logits, **keywords)
    assert not value.requires_grad
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(grad, torch.autograd.grad(loss.sum(), logits)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", BETWEEN)
def test_half_gradients_come_from_float32_storage(name, backend):
    """A weight of 1e-8 puts gradients below the range of half; a gradient scaler's factor brings them back."""
    weight, factor = torch.full([4], 1e-8), 2.0**16
    student, teacher = pair(torch.float16)
    (BETWEEN[name](student, teacher, weight=weight, reduction="sum") * factor).backward()
    wide = [x.detach().double().requires_grad_() for x in (student, teacher)]
    (BETWEEN[name](*wide, weight=weight, reduction="sum") * factor).backward()
    for half, exact in zip((student, teacher), wide, strict=True):
        assert half.grad.dtype is torch.float16
        torch.testing.assert_close(half.grad.double(), exact.grad, rtol=2.0**-10, atol=1e-7)
        underflowing = (exact.grad / factor).half() == 0
        assert (half.grad[underflowing] != 0).any()


@pytest.mark.parametrize("name", BETWEEN)
def test_gradients_have_the_dtype_of_their_input(name, backend):
    for dtypes in ((torch.bfloat16, torch.float32), (torch.float16, torch.float64)):
        student, teacher = (x.detach().to(dtype).requires_grad_() for x, dtype in zip(pair(), dtypes, strict=True))
        BETWEEN[name](student, teacher).backward()
        assert (student.grad.dtype, teacher.grad.dtype) == dtypes


@pytest.mark.parametrize("name", BETWEEN)
def test_value_and_grad_of_half_is_float32(name, backend):
    value, grad_student, grad_teacher = WITHOUT_AUTOGRAD[name](*pair(torch.float16), teacher_grad=True)
    assert value.dtype is grad_student.dtype is grad_teacher.dtype is torch.float32


@pytest.mark.parametrize("name", BETWEEN)
def test_a_weight_multiplies_logits_of_two_precisions(name, backend):
    """The wider of them decides what the weights are rounded to."""
    (s, t), weight = pair(), torch.tensor([0.5, 0.0, 2.0, 0.1])
    exact = BETWEEN[name](s.float(), t, reduction="none").detach()
    for student, teacher in ((s.float(), t), (s, t.float()), (s.half(), t.float())):
        loss = BETWEEN[name](student, teacher, weight=weight, reduction="none")
        torch.testing.assert_close(loss.double(), weight.double() * exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("name", BETWEEN)
def test_forward_mode_is_refused(name, requires_grad, backend):
    """An op that is passed by would have a derivative of zero."""
    x, teacher = (t.detach().requires_grad_(requires_grad) for t in pair())
    with forward_ad.dual_level():
        expected = BETWEEN[name](x, teacher)
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        for logits in ((dual, teacher), (teacher, dual)):
            with pytest.raises(RuntimeError, match="fastadv offers no forward-mode derivatives"):
                BETWEEN[name](*logits)
    torch.testing.assert_close(expected, BETWEEN[name](x, teacher))
    with pytest.raises(RuntimeError, match="fastadv offers no forward-mode derivatives"):
        torch.func.jvp(lambda s: BETWEEN[name](s, teacher), (x.detach(),), (x.detach(),))


@pytest.mark.parametrize("name", WITHOUT_AUTOGRAD)
def test_teacher_grad_is_a_bool(name):
    with pytest.raises(TypeError, match="teacher_grad must be a bool, got str"):
        WITHOUT_AUTOGRAD[name](*pair(), teacher_grad="yes")


@pytest.mark.parametrize("name", BETWEEN)
def test_second_derivative_is_refused(name, backend):
    """A gradient penalty through a nonlinear network would be wrong if it left out the loss's curvature."""
    x, teacher = pair()
    with pytest.raises(RuntimeError, match=r"once_differentiable|second|twice|create_graph"):
        torch.autograd.grad(BETWEEN[name](x * x, teacher), x, create_graph=True)[0].square().sum().backward()


@pytest.mark.parametrize("elsewhere", ["after the block", "in another block", "on another thread"])
@pytest.mark.parametrize("forward", ["reference", "triton"])
def test_backward_runs_on_the_backend_of_its_forward(forward, elsewhere, monkeypatch):
    served = []
    for overload in ("reference", "cpu", "triton"):
        real = scale_grad._overloads[overload]

        def recorded(*args, real=real, overload=overload):
            served.append(overload)
            return real(*args)

        monkeypatch.setitem(scale_grad._overloads, overload, recorded)
    monkeypatch.setattr(scale_grad, "_default", scale_grad._overloads["cpu"])

    def loss() -> Tensor:
        # In half precision, where the backward pass rounds as well as multiplies.
        return 3 * fastadv.kl_distill(*pair(torch.float16))

    with computing_on(forward):
        chosen = loss()
    if elsewhere == "after the block":
        chosen.backward()
    elif elsewhere == "in another block":
        with fastadv.use_backend("cpu"):
            chosen.backward()
    else:
        thread = threading.Thread(target=chosen.backward)
        thread.start()
        thread.join()
    loss().backward()
    # One call for the student, one for the teacher.
    assert served == [forward, forward, "cpu", "cpu"]


@pytest.mark.parametrize("name", BETWEEN)
def test_a_backward_pass_that_is_repeated_gives_the_same(name, backend):
    """For an incoming gradient of 1 the stored one is the result; only the last pass may give it away."""
    student, teacher = pair()
    loss = BETWEEN[name](student, teacher)
    first = torch.autograd.grad(loss, (student, teacher), retain_graph=True)
    expected = [grad.clone() for grad in first]
    for grad in first:
        grad.zero_()
    loss.backward(retain_graph=True)
    student.grad.mul_(2)
    loss.backward()
    torch.testing.assert_close(student.grad, 3 * expected[0])
    torch.testing.assert_close(teacher.grad, 2 * expected[1])


@pytest.mark.parametrize("name", BETWEEN)
def test_a_weight_that_requires_grad_is_refused(name, backend):
    student, teacher = pair()
    weight = torch.ones(4, requires_grad=True)
    with pytest.raises(ValueError, match="weight requires grad"):
        BETWEEN[name](student, teacher, weight=weight)
    with torch.no_grad():
        assert not BETWEEN[name](student, teacher, weight=weight).requires_grad


def test_a_reference_that_requires_grad_is_refused(backend):
    logits, reference = pair()
    with pytest.raises(ValueError, match="reference requires grad"):
        fastadv.attack_loss(logits, kind="kl", reference=reference)


@pytest.mark.parametrize("name", BETWEEN)
def test_no_graph_without_grad_mode(name, backend):
    with torch.no_grad():
        assert BETWEEN[name](*pair()).grad_fn is None
    with torch.inference_mode():
        assert not BETWEEN[name](*pair()).requires_grad


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.sizes in ("images", "particles") and not c.differentiable], ids=str
)
def test_steps_record_no_graph(case, backend):
    tensors = case.make(Draw(torch.float32), (2, 3, 4, 4))
    for name in tensors.keys() & {"x", "grad", "x0", "score"}:
        tensors[name].requires_grad_()
    with torch.no_grad() if case.op == "pgd_step_" else torch.enable_grad():
        result = case.call(FUSED, tensors)
    assert not result.requires_grad


@pytest.mark.parametrize("name", BETWEEN)
def test_losses_of_half_are_float32_under_autocast(name, backend):
    student, teacher = pair(torch.bfloat16)
    plain = BETWEEN[name](student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        loss = BETWEEN[name](student, teacher)
    assert loss.dtype is torch.float32
    assert torch.equal(loss, plain)
    loss.backward()
    assert student.grad.dtype is torch.bfloat16


@pytest.mark.parametrize("name", BETWEEN)
def test_a_network_under_autocast_learns_through_the_loss(name, backend):
    torch.manual_seed(0)
    network, x = torch.nn.Linear(6, 4), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
        loss = BETWEEN[name](logits, pair(torch.float32)[1].detach())
    assert logits.dtype is torch.bfloat16
    loss.backward()
    assert network.weight.grad.dtype is torch.float32
    assert network.weight.grad.abs().sum() > 0
