"""eps, step_size and bounds for each channel or pixel, and masks: shapes, loops, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import fastadv
from fastadv.ops.ball import projector
from fastadv.ops.step import momentum_stepper, pgd_stepper
from tests.ops.cases import Draw

SHAPE = (4, 3, 5, 7)
EPS_SHAPES = ([3, 1, 1], [1, 3, 1, 1], [4, 3, 1, 1], [5, 7], [1, 7], list(SHAPE))


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    draw = Draw(torch.float32)
    x0 = draw.pixels(SHAPE)
    return x0 + draw.normal(SHAPE, 0.1), draw.gradient(SHAPE), x0


def numbers(shape: list[int], most: float, seed: int = 0) -> Tensor:
    return Draw(torch.float32, seed).positive(math.prod(shape), most).view(shape)


def clamped(x: Tensor, x0: Tensor, eps: Tensor, low: Any = 0.0, high: Any = 1.0) -> Tensor:
    inside = torch.minimum(torch.maximum(x, x0 - eps), x0 + eps)
    return torch.minimum(torch.maximum(inside, torch.as_tensor(low)), torch.as_tensor(high))


@pytest.mark.parametrize("shape", EPS_SHAPES, ids=str)
def test_linf_takes_what_broadcasts_to_the_samples(shape, backend):
    x, grad, x0 = drawn()
    eps, step = numbers(shape, 0.2), numbers([3, 1, 1], 0.1, seed=1) - 0.03
    low, high = numbers([5, 1], 0.2, seed=2), 0.5 + numbers([3, 1, 1], 0.5, seed=3)
    assert torch.equal(fastadv.project(x, x0, eps=eps), clamped(x, x0, eps))
    x0 = x0.clamp(low, high)
    moved = fastadv.pgd_step(x, grad, x0, eps=eps, step_size=step, bounds=(low, high))
    assert torch.equal(moved, clamped(x + step * grad.sign(), x0, eps, low, high))
    mean = grad.abs().mean((1, 2, 3), keepdim=True)
    moved, momentum = fastadv.momentum_step(x, grad, 2 * grad, x0, eps=eps, step_size=0.05, decay=0.5)
    torch.testing.assert_close(momentum, grad + grad / mean)
    assert torch.equal(moved, clamped(x + 0.05 * grad.sign(), x0, eps))


@pytest.mark.parametrize("shape", EPS_SHAPES, ids=str)
def test_the_noise_of_a_start_is_that_of_one_radius(shape, backend):
    _, _, x0 = drawn()
    eps = numbers(shape, 0.2)
    unit = fastadv.random_start(torch.zeros(SHAPE), eps=1.0, seed=3, bounds=None)
    start = fastadv.random_start(x0, eps=eps, seed=3)
    assert torch.equal(start, (x0 + eps * unit).clamp(0, 1))
    same = fastadv.random_start(x0, eps=torch.full([3, 1, 1], 0.1), seed=3)
    assert torch.equal(same, fastadv.random_start(x0, eps=0.1, seed=3))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_one_number_in_any_shape_is_one_number(norm, backend):
    x, grad, x0 = drawn()
    expected = fastadv.pgd_step(x, grad, x0, eps=0.3, step_size=0.1, norm=norm)
    for eps in (torch.tensor(0.3), torch.full([4], 0.3), torch.full([4, 1, 1, 1], 0.3), torch.full([1, 1], 0.3)):
        moved = fastadv.pgd_step(x, grad, x0, eps=eps, step_size=torch.tensor(0.1), norm=norm)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_mask_leaves_the_samples_of_the_free_pixels(norm, backend):
    x, grad, x0 = drawn()
    mask = numbers([3, 5, 7], 1.0) > 0.4
    keywords = {"eps": 0.8, "norm": norm}
    part = [t[:, mask] for t in (x, grad, x0)]

    def assert_moved(moved: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(moved[:, mask], expected, rtol=0, atol=1e-6)
        assert torch.equal(moved[:, ~mask], x0[:, ~mask])

    assert_moved(fastadv.project(x, x0, mask=mask, **keywords), fastadv.project(part[0], part[2], **keywords))
    step: dict[str, Any] = keywords | {"step_size": 0.5, "l1_fraction": 1.0}
    expected = fastadv.pgd_step(*part, **step)
    assert_moved(fastadv.pgd_step(x, grad, x0, mask=mask, **step), expected)
    assert_moved(fastadv.pgd_step(x, grad, x0, mask=mask.double(), **step), expected)
    in_place = x.clone()
    assert fastadv.pgd_step_(in_place, grad, x0, mask=mask, **step) is in_place
    assert_moved(in_place, expected)
    moved, momentum = fastadv.momentum_step(x, grad, torch.zeros(SHAPE), x0, mask=mask, **step)
    assert_moved(moved, fastadv.momentum_step(part[0], part[1], torch.zeros_like(part[0]), part[2], **step)[0])
    assert not momentum[:, ~mask].any()
    start = fastadv.random_start(x0, mask=mask, seed=5, **keywords)
    assert_moved(start, fastadv.random_start(x0, seed=5, **keywords)[:, mask])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_results_look_like_x(dtype, memory_format, backend):
    x, grad, x0 = (t.to(dtype).contiguous(memory_format=memory_format) for t in drawn())
    eps, mask = numbers([3, 1, 1], 0.2), numbers([5, 7], 1.0) > 0.3
    moved, momentum = fastadv.momentum_step(x, grad, grad, x0, eps=eps, step_size=0.1, mask=mask)
    results = (
        fastadv.project(x, x0, eps=eps, mask=mask),
        fastadv.random_start(x0, eps=eps, mask=mask),
        fastadv.pgd_step(x, grad, x0, eps=eps, step_size=0.1, mask=mask),
        moved,
        momentum,
    )
    for result in results:
        assert result.dtype is dtype
        assert result.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("wide", ["x", "grad", "momentum"])
def test_the_widest_of_the_inputs_is_computed_in(wide, backend):
    x, grad, x0 = drawn()
    inputs = {"x": x, "grad": grad, "momentum": grad}
    mixed = inputs | {wide: inputs[wide].double()}
    exact = {name: value.double() for name, value in inputs.items()}
    for rule in ({"eps": numbers([3, 1, 1], 0.2)}, {"eps": torch.full([4], 0.2), "mask": numbers([5, 7], 1.0) > 0.3}):
        found = fastadv.momentum_step(**mixed, x0=x0, step_size=0.1, **rule)
        expected = fastadv.momentum_step(**exact, x0=x0.double(), step_size=0.1, **rule)
        for result, given, wanted in zip(found, (mixed["x"], mixed["momentum"]), expected, strict=True):
            torch.testing.assert_close(result, wanted.to(given.dtype))
        step = fastadv.pgd_step(mixed["x"], mixed["grad"], x0, step_size=0.1, **rule)
        wanted = fastadv.pgd_step(exact["x"], exact["grad"], x0.double(), step_size=0.1, **rule)
        torch.testing.assert_close(step, wanted.to(step.dtype))
        projected = fastadv.project(mixed["x"], x0, **rule)
        torch.testing.assert_close(projected, fastadv.project(exact["x"], x0.double(), **rule).to(projected.dtype))


def test_bounds_may_be_a_list():
    x, _, x0 = drawn()
    bounds = [numbers([5, 7], 0.1), torch.tensor(1.0)]
    found = fastadv.project(x, x0, eps=0.1, bounds=bounds)
    assert torch.equal(found, fastadv.project(x, x0, eps=0.1, bounds=tuple(bounds)))


def test_the_forms_for_loops_are_the_functions(backend):
    x, grad, x0 = drawn()
    rule: dict[str, Any] = {"eps": numbers([3, 1, 1], 0.2), "bounds": (numbers([5, 7], 0.1), 1.0)}
    rule["mask"] = numbers([5, 7], 1.0) > 0.3
    x0 = x0.clamp(min=rule["bounds"][0])
    assert torch.equal(projector(x0, **rule)(x), fastadv.project(x, x0, **rule))
    rule["step_size"] = numbers([3, 1, 1], 0.1)
    step = pgd_stepper(x0, **rule)
    assert torch.equal(step(x, grad), fastadv.pgd_step(x, grad, x0, **rule))
    sizes = torch.tensor([0.1, 0.2, 0.0, -0.1])
    expected = fastadv.pgd_step(x, grad, x0, **(rule | {"step_size": sizes}))
    assert torch.equal(step(x, grad, sizes), expected)
    gather = momentum_stepper(x0, decay=0.9, **rule)
    momentum = torch.zeros(SHAPE)
    for _ in range(2):
        x, momentum = fastadv.momentum_step(x, grad, momentum, x0, decay=0.9, **rule)
    other = drawn()[0]
    for _ in range(2):
        other = gather(other, grad)
    assert torch.equal(other, x)


X, G, X0 = drawn()
CHANNELS = torch.full([3, 1, 1], 0.1)
PIXELWISE = r"must be a float or have shape \[4\] for norm='{}', got one for each channel or pixel"
BAD: tuple[tuple[str, dict[str, Any], type[Exception], str], ...] = (
    ("l2 channels", {"eps": CHANNELS, "norm": "l2"}, ValueError, "eps " + PIXELWISE.format("l2")),
    ("l1 channels", {"eps": CHANNELS, "norm": "l1"}, ValueError, "eps " + PIXELWISE.format("l1")),
    ("l2 steps", {"step_size": CHANNELS, "norm": "l2"}, ValueError, "step_size " + PIXELWISE.format("l2")),
    ("l2 bounds", {"bounds": (CHANNELS, 1.0), "norm": "l2"}, ValueError, "bounds must be floats for norm='l2'"),
    ("eps shape", {"eps": torch.ones(2, 1, 1)}, ValueError, r"eps must broadcast to the samples, \[4, 3, 5, 7\]"),
    ("eps dims", {"eps": torch.ones(1, 1, 1, 1, 1)}, ValueError, "eps must broadcast to the samples"),
    ("eps negative", {"eps": -CHANNELS}, ValueError, "eps must be at least 0.0 for every pixel, got -0.1"),
    ("step nan", {"step_size": CHANNELS * math.nan}, ValueError, "step_size must be a number for every pixel"),
    ("eps int", {"eps": torch.ones(3, 1, 1, dtype=torch.int64)}, TypeError, "eps must be float64"),
    ("eps grad", {"eps": CHANNELS.clone().requires_grad_()}, ValueError, "eps requires grad"),
    ("bounds order", {"bounds": (CHANNELS, 0.05)}, ValueError, "low <= high for every pixel"),
    ("no bounds", {"bounds": ()}, TypeError, r"bounds must be None or a pair of floats, got \(\)"),
    ("bounds shape", {"bounds": (torch.ones(2, 1, 1), 1.0)}, ValueError, r"bounds\[0\] must broadcast"),
    ("mask dtype", {"mask": torch.ones(5, 7, dtype=torch.int64)}, TypeError, "mask must be a bool or a floating"),
    ("mask shape", {"mask": torch.ones(5, 6)}, ValueError, "mask must broadcast to the samples"),
    ("mask list", {"mask": [1]}, TypeError, "mask must be a bool or a floating-point tensor, got list"),
)


@pytest.mark.parametrize(("keywords", "error", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_calls(keywords, error, message):
    rule = {"eps": 0.1, "step_size": 0.1} | keywords
    without_step = {name: value for name, value in rule.items() if name != "step_size"}
    with pytest.raises(error, match=message):
        fastadv.pgd_step(X, G, X0, **rule)
    with pytest.raises(error, match=message):
        fastadv.momentum_step(X, G, G, X0, **rule)
    if "step_size" not in keywords:
        with pytest.raises(error, match=message):
            fastadv.project(X, X0, **without_step)
        with pytest.raises(error, match=message):
            fastadv.random_start(X0, **without_step)


def test_particles_take_one_radius_an_image():
    with pytest.raises(ValueError, match=r"eps must be a float or have shape \[4\]"):
        fastadv.svgd_step(X[:, None], G[:, None], X0, eps=CHANNELS, step_size=0.1)


def test_for_triton_pixels_share_a_program(monkeypatch):
    pytest.importorskip("triton")
    from fastadv.kernels import ball, move

    started = []
    monkeypatch.setattr(move, "launch", lambda kernel, programs, *given, **constants: started.append(programs))
    pixels = torch.zeros(1300, 1)
    ball.project(pixels, pixels, 0.0, 0, 0.0, 1.0, True, torch.ones(1300))
    assert started == [3]
