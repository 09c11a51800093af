"""What is not offered beyond a first derivative is refused in one sentence, under torch.compile and torch.func too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastadv

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.2, -0.3], [1.5, 0.0, 0.4]])
OTHER, CLASSES, ORDER = LOGITS.roll(1, 1).square(), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2])
CALLS = {
    "kl_distill": lambda x: fastadv.kl_distill(x, OTHER),
    "attack_loss": lambda x: fastadv.attack_loss(x, CLASSES).sum(),
    "triplet_margin_loss": lambda x: fastadv.triplet_margin_loss(x, OTHER, OTHER.roll(1, 1)),
    "rkd_loss": lambda x: fastadv.rkd_loss(x, OTHER),
    "mix": lambda x: fastadv.mix(x, 0.3, ORDER).square().sum(),
}
EACH = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
ONE_SENTENCE = "fastadv's ops cannot be used inside torch.func"


@EACH
@pytest.mark.parametrize(
    "transform", [torch.func.grad, torch.func.jacrev, torch.func.hessian], ids=lambda t: t.__name__
)
def test_transforms_of_torch_func_are_refused(transform, call, backend):
    with pytest.raises(RuntimeError, match=f"{ONE_SENTENCE}|no forward-mode derivatives"):
        transform(call)(LOGITS)


def test_losses_refuse_vmap(backend):
    batch = LOGITS.expand(4, 3, 3)
    with pytest.raises(RuntimeError, match=ONE_SENTENCE):
        torch.vmap(lambda x: fastadv.kl_distill(x, OTHER))(batch)
    with pytest.raises(RuntimeError, match=ONE_SENTENCE):
        torch.vmap(lambda x: fastadv.kl_distill_value_and_grad(x, OTHER)[0])(batch)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="backend 'cpu' was asked for, but the tensors are on meta"):
        refused(LOGITS.to("meta"))


def refused(x: Tensor) -> Tensor:
    if fastadv.backends()["cpu"] != "available":
        pytest.skip("there is no C++ backend")
    with fastadv.use_backend("cpu"):
        return fastadv.kl_distill(x, x)


@EACH
@pytest.mark.parametrize("compiled", [False, True])
def test_second_derivatives_are_refused(compiled, call, backend):
    """Dynamo alone ran the backward pass without recording: of a sum with another loss, terms went missing."""
    function = call
    if compiled:
        torch._dynamo.reset()
        function = torch.compile(call, backend="eager", fullgraph=True)
    x = LOGITS.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(x), x)
    assert grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="fastadv offers no second derivatives"):
        torch.autograd.grad(function(x) + x.pow(3).sum(), x, create_graph=True)


@EACH
@pytest.mark.parametrize("loss_inside", [False, True])
def test_second_derivatives_inside_of_compiled_code_are_refused(loss_inside, call):
    """Dynamo compiles the backward pass that such code starts, in which it once did not look."""
    torch._dynamo.reset()
    x = LOGITS.clone().requires_grad_()

    def total():
        return call(x) + x.pow(3).sum()

    def first(loss):
        return torch.autograd.grad(total() if loss_inside else loss, x, create_graph=True)[0]

    with pytest.raises(RuntimeError, match="fastadv offers no second derivatives"):
        torch.compile(first, backend="eager")(total())


@EACH
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_first_derivatives_are_the_same_compiled(compiler, call):
    torch._dynamo.reset()
    x = LOGITS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(2.0 * call(x), x)
    (actual,) = torch.autograd.grad(2.0 * torch.compile(call, backend=compiler, fullgraph=True)(x), x)
    # A mean is divided behind the op, as its factor must not fix the batch size.
    torch.testing.assert_close(actual, expected, rtol=4e-6, atol=0)
