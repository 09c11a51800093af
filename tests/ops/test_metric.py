"""triplet_margin_loss is PyTorch's, in value and gradient: orders, ties, broadcasting, reductions; and its errors."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv
from tests.ops.cases import Draw

NAN, INF = math.nan, math.inf
ORDERS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, INF]
Triplet = tuple[Tensor, Tensor, Tensor]


def triplet(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (6, 9)) -> Triplet:
    draw = Draw(dtype, seed=4)
    return draw.normal(shape), draw.normal(shape), draw.normal(shape)


def with_gradients(function: Any, inputs: Triplet, **keywords: Any) -> list[Tensor]:
    """Return the loss, and its gradients w.r.t. all inputs for an incoming one other than 1; zeros for none."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    loss = function(*leaves, **keywords)
    if not loss.requires_grad:
        return [loss, *map(torch.zeros_like, leaves)]
    incoming = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, incoming, materialize_grads=True)]


def assert_is_pytorchs(inputs: Triplet, **keywords: Any) -> None:
    actual = with_gradients(fastadv.triplet_margin_loss, inputs, **keywords)
    expected = with_gradients(F.triplet_margin_loss, tuple(x.double() for x in inputs), **keywords)
    # What is left of two distances has their rounding error.
    distance = F.pairwise_distance(inputs[0].double(), inputs[1].double(), keywords.get("p", 2.0))
    accuracy = 1e-13 if inputs[0].dtype is torch.float64 else 1e-5
    for mine, theirs, scale in zip(actual, expected, (distance, *expected[1:]), strict=True):
        largest = max(1.0, *scale.nan_to_num(0, 0, 0).abs().flatten().tolist(), 0.0)
        torch.testing.assert_close(mine.double(), theirs, equal_nan=True, rtol=accuracy, atol=accuracy * largest)


def rows(*triplets: tuple[list[float], list[float], list[float]]) -> Triplet:
    anchor, positive, negative = (torch.tensor(side, dtype=torch.float64) for side in zip(*triplets, strict=True))
    return anchor, positive, negative


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_orders_and_reductions(dtype, p, swap, reduction, backend):
    for shape in ((6, 9), (2, 1), (3, 700)):
        assert_is_pytorchs(triplet(dtype, shape), p=p, swap=swap, reduction=reduction, margin=0.75)


@pytest.mark.parametrize("p", [2.0, INF])
def test_images_of_the_usual_size(p):
    x, y, z = triplet(torch.float32, (2, 150_528))
    wide = fastadv.triplet_margin_loss(x.double(), y.double(), z.double(), p=p, swap=True, reduction="none")
    loss = fastadv.triplet_margin_loss(x, y, z, p=p, swap=True, reduction="none")
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=1e-4)
    assert_is_pytorchs((x.double(), y.double(), z.double()), p=p, swap=True)


@pytest.mark.parametrize("p", ORDERS)
def test_coincident_points(p, backend):
    x, y, _ = triplet()
    for inputs in ((x, x, x), (x, x, y), (x, y, x), (x, y, y)):
        for eps in (1e-6, 0.0):
            assert_is_pytorchs(inputs, p=p, eps=eps, swap=True, reduction="none")
    torch.testing.assert_close(fastadv.triplet_margin_loss(x, x, x, eps=1e-3, reduction="none"), torch.ones(6).double())


def test_the_hinge_passes_the_gradient_where_it_is_zero(backend):
    inputs = rows(([0.0, 0.0], [0.0, 0.0], [1.0, 0.0]), ([3.0, 0.0], [0.0, 0.0], [7.0, 0.0]))
    loss, grad_anchor, *_ = with_gradients(fastadv.triplet_margin_loss, inputs, eps=0.0, reduction="none")
    assert loss.tolist() == [0, 0]
    assert grad_anchor.tolist() == [[0.5, 0], [3, 0]]
    assert_is_pytorchs(inputs, eps=0.0, reduction="none")


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, INF])
def test_equal_distances_share_the_gradient(p, backend):
    inputs = rows(([0.0, 1.0], [0.0, -1.0], [1.0, 0.0]), ([2.0, 0.0], [-2.0, 0.0], [0.0, 1.0]))
    assert_is_pytorchs(inputs, p=p, eps=0.0, swap=True, reduction="none")
    _, grad_anchor, grad_positive, _ = with_gradients(
        fastadv.triplet_margin_loss, inputs, p=p, eps=0.0, swap=True, reduction="none"
    )
    torch.testing.assert_close(grad_anchor[0], grad_positive[0] * torch.tensor([1.0, -1.0]).double())


def test_the_largest_differences_share_the_gradient(backend):
    inputs = rows(([1.0, 1.0, 3.0], [0.0, 2.0, 3.0], [1.5, 1.0, 3.0]))
    _, grad_anchor, *_ = with_gradients(fastadv.triplet_margin_loss, inputs, p=INF, eps=0.0, reduction="sum")
    assert grad_anchor.tolist() == [[0.75, -0.25, 0]]
    assert_is_pytorchs(inputs, p=INF, eps=0.0)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("p", ORDERS)
def test_what_is_not_finite_stays_in_its_triplet(p, place, value, backend):
    inputs = triplet(shape=(3, 4))
    inputs[place][1, 2] = value
    assert_is_pytorchs(inputs, p=p, reduction="none")
    loss = fastadv.triplet_margin_loss(*inputs, p=p, swap=True, reduction="none")
    torch.testing.assert_close(
        loss, F.triplet_margin_loss(*inputs, p=p, swap=True, reduction="none"), equal_nan=True, rtol=1e-12, atol=1e-14
    )


SHAPES = [
    ((3, 5), (1, 5), (3, 5)),
    ((1, 5), (1, 5), (4, 5)),
    ((2, 3, 5), (2, 1, 5), (1, 3, 5)),
    ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)),
    ((3, 1), (3, 5), (3, 5)),
    ((5,), (5,), (5,)),
    ((5,), (1,), (5,)),
    ((0, 5), (1, 5), (0, 5)),
    ((2, 0, 5), (2, 0, 5), (2, 1, 5)),
]


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_broadcasting(shapes, reduction, backend):
    draw = Draw(torch.float64, seed=5)
    a, b, c = (draw.normal(shape) for shape in shapes)
    assert_is_pytorchs((a, b, c), swap=True, reduction=reduction)
    value, *grads = fastadv.triplet_margin_loss_value_and_grad(a, b, c, swap=True)
    leaves = [x.clone().requires_grad_() for x in (a, b, c)]
    expected = F.triplet_margin_loss(*leaves, swap=True, reduction="none")
    torch.testing.assert_close(value, expected.detach())
    for grad, other in zip(grads, torch.autograd.grad(expected.sum(), leaves), strict=True):
        torch.testing.assert_close(grad, other)


def test_a_dimension_of_one_is_repeated_only_where_every_distance_repeats_it(backend):
    narrow, wide = torch.rand(3, 1), torch.rand(3, 4)
    assert_is_pytorchs((wide.double(), narrow.double(), narrow.double()))
    with pytest.raises(ValueError, match=re.escape("must have one last dimension, got [3, 1], [3, 1] and [3, 4]")):
        fastadv.triplet_margin_loss(narrow, narrow, wide)
    with pytest.raises(ValueError, match="must have one last dimension"):
        fastadv.triplet_margin_loss(wide, narrow, narrow, swap=True)


def test_batchmean_is_the_mean_over_all_triplets(backend):
    inputs = triplet(shape=(2, 3, 4))
    mean = fastadv.triplet_margin_loss(*inputs, reduction="batchmean")
    assert torch.equal(mean, fastadv.triplet_margin_loss(*inputs))
    torch.testing.assert_close(mean, fastadv.triplet_margin_loss(*inputs, reduction="none").mean())
    assert fastadv.triplet_margin_loss(*(x[:0] for x in inputs)).isnan()
    assert fastadv.triplet_margin_loss(*(x[:0] for x in inputs), reduction="sum").item() == 0


def test_a_margin_a_triplet(backend):
    inputs = triplet(shape=(2, 3, 4))
    margins = torch.tensor([[0.25, 1.0, 3.0], [0.5, 2.0, 0.125]], dtype=torch.float64)
    each = fastadv.triplet_margin_loss(*inputs, margin=margins, reduction="none")
    for index in ((0, 0), (1, 2), (0, 2)):
        alone = F.triplet_margin_loss(*(x[index] for x in inputs), margin=margins[index].item())
        torch.testing.assert_close(each[index], alone)
    one = fastadv.triplet_margin_loss(*(x[0, 1] for x in inputs), margin=torch.tensor(0.5))
    torch.testing.assert_close(one, F.triplet_margin_loss(*(x[0, 1] for x in inputs), margin=0.5))
    narrow = fastadv.triplet_margin_loss(inputs[0].float(), *inputs[1:], margin=margins.float(), reduction="none")
    torch.testing.assert_close(narrow, each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0, INF])
def test_gradcheck(p, swap, backend):
    # No distance is close to another here, no coordinate to another's size, no triplet to the margin.
    leaves = tuple(x.requires_grad_() for x in triplet(shape=(4, 5)))
    fast = backend == "triton"  # One random direction in place of every element: the interpreter is slow.

    def loss(*x: Tensor) -> Tensor:
        return fastadv.triplet_margin_loss(*x, p=p, swap=swap, margin=0.75, reduction="none")

    assert torch.autograd.gradcheck(loss, leaves, fast_mode=fast)


@pytest.mark.parametrize("needs_grad", [(True, False, False), (False, True, True), (False, False, True)])
def test_only_gradients_that_are_needed(needs_grad, backend):
    leaves = [x.requires_grad_(needed) for x, needed in zip(triplet(), needs_grad, strict=True)]
    fastadv.triplet_margin_loss(*leaves, swap=True).backward()
    others = [x.detach().requires_grad_() for x in leaves]
    F.triplet_margin_loss(*others, swap=True).backward()
    for x, other, needed in zip(leaves, others, needs_grad, strict=True):
        assert (x.grad is not None) == needed
        if needed:
            torch.testing.assert_close(x.grad, other.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_losses_of_half_are_float32_and_so_are_their_sums(dtype, backend):
    inputs = triplet(dtype, (4, 300))
    value, *grads = fastadv.triplet_margin_loss_value_and_grad(*inputs)
    assert {x.dtype for x in (value, *grads)} == {torch.float32}
    loss, *rounded = with_gradients(fastadv.triplet_margin_loss, inputs, reduction="none")
    assert loss.dtype is torch.float32
    wide = F.triplet_margin_loss(*(x.double() for x in inputs), reduction="none")
    torch.testing.assert_close(loss.double(), wide, rtol=1e-5, atol=2e-6)
    assert {x.dtype for x in rounded} == {dtype}
    mixed = fastadv.triplet_margin_loss(inputs[0].float(), *inputs[1:], reduction="none")
    torch.testing.assert_close(mixed, loss)


def test_second_derivative_is_refused(backend):
    x, y, z = (x.requires_grad_() for x in triplet())
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(fastadv.triplet_margin_loss(x, y, z), x, create_graph=True)


X = torch.rand(2, 3)
BAD: list[tuple[str, tuple[Any, Any, Any], dict[str, Any], type[Exception], str]] = [
    ("integers", (X.int(), X, X), {}, TypeError, "anchor must be float64, .* got torch.int32"),
    ("no tensor", (X, None, X), {}, TypeError, "positive must be a tensor, got NoneType"),
    ("complex", (X, X, X.cfloat()), {}, TypeError, "negative must be float64, .* got torch.complex64"),
    ("no dimension", (X[0, 0],) * 3, {}, ValueError, r"anchor must have shape \[..., D\] with D > 0, got \[\]"),
    ("no features", (X[:, :0],) * 3, {}, ValueError, r"anchor must have shape \[..., D\] with D > 0, got \[2, 0\]"),
    ("dimensions", (X, X[0], X), {}, ValueError, r"as many dimensions, got \[2, 3\], \[3\] and \[2, 3\]"),
    ("shapes", (X, X[:, :2], X), {}, ValueError, r"must broadcast, got \[2, 3\], \[2, 2\] and \[2, 3\]"),
    ("batches", (X, X, torch.rand(3, 3)), {}, ValueError, r"must broadcast, got .* and \[3, 3\]"),
    ("device", (X, X, X.to("meta")), {}, ValueError, "negative must be on the device of anchor, cpu, got meta"),
    ("device of one row", (X, X[:1].to("meta"), X), {}, ValueError, "positive must be on the device of anchor"),
    ("margin zero", (X, X, X), {"margin": 0.0}, ValueError, "margin must be positive and finite, got 0.0"),
    ("margin negative", (X, X, X), {"margin": -1}, ValueError, "margin must be positive and finite, got -1"),
    ("margin nan", (X, X, X), {"margin": NAN}, ValueError, "margin must be a number, got nan"),
    ("margin a bool", (X, X, X), {"margin": True}, TypeError, "margin must be a float, got bool"),
    ("margin a number", (X, X, X), {"margin": torch.tensor(1.0)}, ValueError, r"margin .* shape \[2\], got \[\]"),
    ("margins of more", (X, X, X), {"margin": torch.ones(3)}, ValueError, r"margin .* shape \[2\], got \[3\]"),
    ("margins of zero", (X, X, X), {"margin": torch.tensor([1.0, 0.0])}, ValueError, "margin .* positive for .* got 0"),
    ("margins nan", (X, X, X), {"margin": torch.tensor([1.0, NAN])}, ValueError, "margin .* positive for .* got nan"),
    ("margins of integers", (X, X, X), {"margin": torch.ones(2).int()}, TypeError, "margin must be float64"),
    ("margins elsewhere", (X, X, X), {"margin": torch.ones(2, device="meta")}, ValueError, "margin must be on the dev"),
    (
        "margins wanting grad",
        (X, X, X),
        {"margin": torch.ones(2, requires_grad=True)},
        ValueError,
        "margin requires gr",
    ),
    ("p negative", (X, X, X), {"p": -1.0}, ValueError, "p must not be negative, got -1.0"),
    ("p nan", (X, X, X), {"p": NAN}, ValueError, "p must be a number, got nan"),
    ("p a string", (X, X, X), {"p": "inf"}, TypeError, "p must be a float, got str"),
    ("eps nan", (X, X, X), {"eps": NAN}, ValueError, "eps must be a number, got nan"),
    ("swap a number", (X, X, X), {"swap": 1}, TypeError, "swap must be a bool, got int"),
]


@pytest.mark.parametrize(
    ("inputs", "keywords", "error", "message"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD]
)
def test_bad_calls(inputs, keywords, error, message):
    for function in (fastadv.triplet_margin_loss, fastadv.triplet_margin_loss_value_and_grad):
        with pytest.raises(error, match=message):
            function(*inputs, **keywords)


def test_unknown_reduction():
    with pytest.raises(ValueError, match=r"reduction must be one of .* got 'max'"):
        fastadv.triplet_margin_loss(X, X, X, reduction="max")
