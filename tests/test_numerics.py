import pytest
import torch

from fastadv import numerics


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_sums_are_taken_in_float32_or_wider(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = torch.ones(2, 3, dtype=dtype)
    assert numerics.accumulation_dtype(x) == numerics.accumulate(x).dtype == wide
    assert torch.equal(numerics.accumulate(x), torch.ones(2, 3, dtype=wide))


def test_a_number_for_each_sample_broadcasts_against_samples():
    x = torch.ones(2, 3, 4)
    factor = numerics.per_sample(torch.tensor([2.0, 3.0], dtype=torch.float64), x)
    assert (factor.shape, factor.dtype) == ((2, 1, 1), torch.float32)
    assert torch.equal((factor * x)[:, 0, 0], torch.tensor([2.0, 3.0]))
    assert numerics.per_sample(0.5, x) == 0.5
    assert numerics.sample_dims(x) == (1, 2)


@pytest.mark.parametrize("scale", [1e-40, 1e-25, 1.0, 1e30])
def test_a_norm_neither_overflows_nor_underflows(scale):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)) * scale
    expected = x.double().flatten(1).norm(dim=1)
    assert numerics.safe_norm(x).shape == (3, 1, 1)
    assert torch.allclose(numerics.safe_norm(x).double().flatten(), expected, rtol=1e-5, atol=0)


def test_norms_of_nothing_of_zeros_and_of_infinities():
    assert numerics.safe_norm(torch.zeros(0, 3, 2)).shape == (0, 1, 1)
    assert torch.equal(numerics.safe_norm(torch.zeros(2, 0)), torch.zeros(2, 1))
    assert torch.equal(numerics.safe_norm(torch.zeros(2, 5)), torch.zeros(2, 1))
    x = torch.tensor([[torch.inf, 1.0], [3.0, 4.0]])
    assert torch.equal(numerics.safe_norm(x), torch.tensor([[torch.inf], [5.0]]))
    assert torch.equal(numerics.largest_magnitude(x), torch.tensor([[1.0], [4.0]]))
