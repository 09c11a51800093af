"""Virtual samples: the bits of the formula, gradients for any indices, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fastadv
from tests.ops.available import computing_on
from tests.ops.cases import Draw

INDICES = {"a permutation": [2, 0, 3, 1], "one twice": [1, 1, 0, 3], "one for all": [2, 2, 2, 2]}


def samples(dtype: torch.dtype = torch.float64) -> Tensor:
    return Draw(dtype, seed=9).normal((4, 3, 2))


@pytest.mark.parametrize("lam", [0.3, 1.0, 0.0, -0.25, 1 / 3])
def test_the_bits_of_the_formula(lam, backend):
    x, permutation = (
        Draw(torch.float32).normal((64, 77)),
        torch.randperm(64, generator=torch.Generator().manual_seed(1)),
    )
    assert torch.equal(fastadv.mix(x, lam, permutation), lam * x + (1 - lam) * x[permutation])
    each = torch.full([64], lam)
    assert torch.equal(fastadv.mix(x, each, permutation), each[:, None] * x + (1 - each[:, None]) * x[permutation])


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_gradcheck(indices, per_sample, backend):
    lam = torch.tensor([0.2, 1.0, -0.5, 0.0], dtype=torch.float64) if per_sample else 0.3
    x = samples().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fastadv.mix(x, lam, torch.tensor(indices)), x)


def test_forward_mode_is_refused(backend):
    x = samples()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="fastadv offers no forward-mode derivatives"):
        fastadv.mix(forward_ad.make_dual(x, x), 0.3, torch.tensor(INDICES["one twice"]))


def test_an_index_taken_by_many_in_a_large_batch(backend):
    x = Draw(torch.float64, seed=9).normal((100, 5)).requires_grad_()
    taken = torch.arange(99, -1, -1)
    taken[::3] = 99
    mixed = fastadv.mix(x, 0.3, taken)
    (grad,) = torch.autograd.grad(mixed, x, x)
    torch.testing.assert_close(grad, (0.3 * x).index_add(0, taken, 0.7 * x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_come_in_the_layout_and_dtype_of_x(memory_format, backend):
    for dtype in (torch.float32, torch.bfloat16):
        x = Draw(dtype).normal((4, 3, 5, 5)).contiguous(memory_format=memory_format).requires_grad_()
        mixed = fastadv.mix(x, 0.3, torch.tensor([1, 1, 0, 2]))
        mixed.sum().backward()
        assert mixed.is_contiguous(memory_format=memory_format)
        assert x.grad.dtype is dtype
        # 0.3, and 0.7 for each sample that this one was mixed into.
        expected = torch.tensor([1.0, 1.7, 1.0, 0.3])[:, None, None, None].expand(x.shape)
        torch.testing.assert_close(x.grad, expected.to(dtype))


def test_a_generator_learns_through_it(backend):
    torch.manual_seed(0)
    generator, code = torch.nn.Linear(5, 7), torch.randn(6, 5)
    permutation = torch.tensor([3, 3, 0, 5, 1, 2])
    lam = torch.rand(6)
    fastadv.mix(generator(code), lam, permutation).square().sum().backward()
    fused, generator.weight.grad = generator.weight.grad, None
    x = generator(code)
    (lam[:, None] * x + (1 - lam[:, None]) * x[permutation]).square().sum().backward()
    torch.testing.assert_close(fused, generator.weight.grad)


def test_no_graph_where_none_is_needed(backend):
    x = samples().requires_grad_()
    permutation = torch.tensor([1, 0, 3, 2])
    with torch.no_grad():
        assert not fastadv.mix(x, 0.5, permutation).requires_grad
    assert not fastadv.mix(x.detach(), 0.5, permutation).requires_grad


def test_second_derivatives_are_refused(backend):
    x = samples().requires_grad_()
    mixed = fastadv.mix(x * x, 0.5, torch.tensor([1, 0, 3, 2]))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(mixed.sum(), x, create_graph=True)


@pytest.mark.parametrize("index", [4, -1, 2**40, -(2**63)])
def test_an_index_out_of_range_is_refused(index, backend):
    for x in (samples(), samples().requires_grad_()):
        with pytest.raises(ValueError, match=rf"permutation must lie in \[0, 4\), got .*{index}"):
            fastadv.mix(x, 0.5, torch.tensor([0, 1, index, 2]))


@pytest.mark.parametrize("forward", ["reference", "triton"])
def test_backward_runs_on_the_backend_of_its_forward(forward, monkeypatch):
    from fastadv.ops.mix import mix_backward

    served = []
    for overload in ("reference", "cpu", "triton"):
        real = mix_backward._overloads[overload]

        def recorded(*args, real=real, overload=overload):
            served.append(overload)
            return real(*args)

        monkeypatch.setitem(mix_backward._overloads, overload, recorded)
    with computing_on(forward):
        mixed = fastadv.mix(samples().requires_grad_(), 0.5, torch.tensor([1, 0, 3, 2]))
    with fastadv.use_backend("cpu"):
        mixed.sum().backward()
    assert served == [forward]
