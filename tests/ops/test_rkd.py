"""rkd_loss against the published formula, where points coincide or nearly do, its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

import fastadv
from fastadv.reference.rkd import rkd_loss_value_and_grad as reference
from tests.ops.available import BACKENDS, computing_on
from tests.ops.cases import ORACLE, Draw
from tests.ops.layouts import LAYOUTS, Guarded
from tests.ops.tolerance import assert_within


def published(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """Relational distillation on all B x B x D differences at once."""

    def relations(x: Tensor) -> tuple[Tensor, Tensor]:
        differences = x[None] - x[:, None]
        lengths = differences.square().sum(2).clamp(min=1e-12).sqrt() * (1 - torch.eye(len(x), dtype=x.dtype))
        directions = F.normalize(differences, dim=2)
        return lengths / lengths[lengths > 0].mean(), directions @ directions.mT

    (lengths, angles), (t_lengths, t_angles) = relations(student), relations(teacher)
    return distance_weight * F.smooth_l1_loss(lengths, t_lengths) + angle_weight * F.smooth_l1_loss(angles, t_angles)


def features(samples: int = 6, dtype: torch.dtype = torch.float64, seed: int = 4) -> tuple[Tensor, Tensor]:
    draw = Draw(dtype, seed)
    return draw.normal((samples, 5)), draw.normal((samples, 3), 2.0)


def value_and_grad(s: Tensor, t: Tensor, **weights: float) -> tuple[Tensor, Tensor]:
    leaf = s.detach().requires_grad_()
    loss = fastadv.rkd_loss(leaf, t, **weights)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def assert_as_in_float64(s: Tensor, t: Tensor) -> None:
    for result, expected in zip(value_and_grad(s, t), reference(s.double(), t.double()), strict=True):
        assert_within("rkd", result, expected)


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("samples", [2, 3, 6, 21])
def test_the_published_formula(samples, weights, backend):
    s, t = features(samples)
    leaf = s.clone().requires_grad_()
    expected = published(leaf, t, *weights)
    (grad,) = torch.autograd.grad(expected, leaf)
    actual = value_and_grad(s, t, distance_weight=weights[0], angle_weight=weights[1])
    torch.testing.assert_close(actual[0], expected.detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(actual[1], grad, rtol=1e-11, atol=1e-13)


def test_gradcheck(backend):
    s, t = features(4)
    assert torch.autograd.gradcheck(lambda x: fastadv.rkd_loss(x, t), s.requires_grad_(), fast_mode=backend == "triton")


def test_gradcheck_of_the_reference():
    s, t = features(4)
    assert torch.autograd.gradcheck(lambda x: ORACLE.rkd_loss(x, t), s.requires_grad_())


def test_value_and_grad_is_autograd(backend):
    s, t = features()
    loss, grad = value_and_grad(s, t)
    value, grad_student = fastadv.rkd_loss_value_and_grad(s.requires_grad_(), t)
    assert not value.requires_grad
    assert not grad_student.requires_grad
    assert torch.equal(value, loss)
    assert torch.equal(grad_student, grad)
    with torch.no_grad():
        assert torch.equal(fastadv.rkd_loss(s, t), loss)
        assert not fastadv.rkd_loss(s, t.requires_grad_()).requires_grad


def test_second_derivative_is_refused(backend):
    s, t = features()
    s.requires_grad_()
    with pytest.raises(RuntimeError, match="create_graph"):
        torch.autograd.grad(fastadv.rkd_loss(s * s, t), s, create_graph=True)


def test_incoming_gradient_multiplies(backend):
    s, t = features()
    _, once = value_and_grad(s, t)
    leaf = s.clone().requires_grad_()
    (-3 * fastadv.rkd_loss(leaf, t)).backward()
    torch.testing.assert_close(leaf.grad, -3 * once)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_gradients_come_from_float32_storage(dtype, backend):
    s, t = features(dtype=dtype)
    weights = {"distance_weight": 1e-8, "angle_weight": 1e-8}
    loss, stored = fastadv.rkd_loss_value_and_grad(s, t, **weights)
    assert loss.dtype is stored.dtype is torch.float32
    leaf = s.clone().requires_grad_()
    (2.0**16 * fastadv.rkd_loss(leaf, t, **weights)).backward()
    assert leaf.grad.dtype is dtype
    _, exact = reference(s.double(), t.double(), **weights)
    torch.testing.assert_close(leaf.grad.double(), 2.0**16 * exact, rtol=2.0**-8, atol=1e-7)
    assert (stored.half() == 0).any()


def test_mixed_dtypes_take_the_widest(backend):
    s, t = features()
    leaf = s.half().requires_grad_()
    loss = fastadv.rkd_loss(leaf, t.float())
    torch.testing.assert_close(loss.double(), ORACLE.rkd_loss(s.half().double(), t.float().double()), rtol=1e-6, atol=0)
    assert loss.dtype is torch.float32
    assert torch.autograd.grad(loss, leaf)[0].dtype is torch.float16
    assert fastadv.rkd_loss(leaf, t).dtype is torch.float64


@pytest.mark.parametrize("samples", [0, 1])
def test_fewer_than_two_samples_have_no_relations(samples, backend):
    s, t = features(samples, torch.float32)
    loss, grad = value_and_grad(s, t)
    assert loss.item() == 0
    assert torch.equal(grad, torch.zeros_like(s))
    assert fastadv.rkd_loss(s, t).shape == ()


def test_two_samples_are_alike_in_every_network(backend):
    s, t = features(2, torch.float32)
    loss, grad = value_and_grad(s, t)
    assert loss < 1e-10
    assert grad.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_similar_figure_costs_nothing(dtype, backend):
    _, t = features(7, dtype)
    rotation = torch.linalg.qr(Draw(dtype, 1).normal((3, 3)))[0]
    loss, grad = value_and_grad(40 * t @ rotation + 3, t)
    assert loss < 1e-9
    assert grad.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_coincident_points_have_finite_gradients(dtype, backend):
    s, t = features(7, dtype)
    s[1], s[4], t[3] = s[0], s[6], t[0]
    assert_as_in_float64(s, t)
    # Both networks hold the same two points to be one.
    t[4] = t[6]
    assert_as_in_float64(s, t)
    for everywhere in (s[:1].expand(7, 5), torch.zeros_like(s)):
        loss, grad = value_and_grad(everywhere, t)
        assert loss > 0
        assert torch.equal(grad, torch.zeros_like(s))
        assert_as_in_float64(everywhere, t)
    assert_as_in_float64(s, t[:1].expand(7, 3))


def test_near_points_keep_their_digits(backend):
    """A clean and a perturbed image: in float32, squared distances to a third would not tell on which side it lies."""
    s, t = features(8, torch.float32)
    s[1] = s[0] + 1e-4 * s[2]
    t[1] = t[0] - 1e-4 * t[3]
    assert_as_in_float64(s, t)


def test_lengths_below_the_least_have_no_derivative(backend):
    s, t = features(6)
    s[1] = s[0] + 1e-8 * s[2]
    for result, expected in zip(value_and_grad(s, t, angle_weight=0.0), reference(s, t, angle_weight=0.0), strict=True):
        assert_within("rkd", result, expected)
    leaf = s.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(published(leaf, t, angle_weight=0.0), leaf)
    assert_within("rkd", value_and_grad(s, t, angle_weight=0.0)[1], by_autograd)


@pytest.mark.parametrize("offset", [1e3, -3e4])
def test_a_common_offset_loses_nothing_but_its_rounding(offset, backend):
    s, t = features(9, torch.float32)
    assert_as_in_float64(s + offset, t - offset)


@pytest.mark.parametrize("scale", [1e-4, 1e15])
def test_features_of_any_size(scale, backend):
    s, t = features(9, torch.float32)
    loss, grad = value_and_grad(scale * s, t)
    expected, expected_grad = reference((scale * s).double(), t.double())
    assert_within("rkd", loss, expected)
    assert_within("rkd", scale * grad, scale * expected_grad)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("network", [0, 1])
def test_one_undefined_feature_makes_the_loss_nan(network, value, backend):
    pair = features(5, torch.float32)
    pair[network][2, 1] = value
    loss, grad = value_and_grad(*pair)
    assert loss.isnan()
    assert grad.isnan().any()


def test_the_gradient_moves_no_centre(backend):
    _, grad = value_and_grad(*features(20))
    assert grad.sum(0).abs().max() < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(
    samples=st.integers(0, 20),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    spread=st.sampled_from([0.0, 0.1, 1.0, 30.0]),
    repeated=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_composed_inputs(backend, samples, widths, layout, dtype, spread, repeated, seed):
    draw = Draw(dtype, seed)
    values = {"s": draw.normal((samples, widths[0]), spread), "t": draw.normal((samples, widths[1]))}
    if repeated:
        values["s"][1::3] = values["s"][:1]
    guarded = Guarded()
    tensors = guarded.place(values, layout)
    with computing_on(backend):
        actual = fastadv.rkd_loss(tensors["s"], tensors["t"])
    guarded.assert_untouched()
    assert_within("rkd", actual, ORACLE.rkd_loss(tensors["s"].double(), tensors["t"].double()))
