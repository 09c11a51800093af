"""Inputs chosen to reach every kernel and every branch of a size: aligned or not, held in registers, streamed, in parts.

The tensors are fresh, so they are aligned for 16-byte accesses; a view that starts one element later is not.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import FUSED, ORACLE, Draw
from tolerance import assert_within

pytestmark = pytest.mark.usefixtures("simulated")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# A run of 16 bytes, many of them, as much as a block holds, more than that, and no multiple of 16 bytes.
SAMPLES = [8, 3072, 8192, 8200, 3071]


def doubles(tensors):
    return {name: t.double() for name, t in tensors.items()}


def drawn(dtype, samples, elements):
    draw = Draw(dtype)
    x0 = draw.pixels((samples, elements))
    return {
        "x": x0 + draw.normal((samples, elements), 0.02),
        "grad": draw.gradient((samples, elements)),
        "x0": x0,
        "eps": draw.positive(samples, 1.0),
        "step": draw.positive(samples, 1.0) - 0.3,
    }


def step(library, t, **keywords):
    return library.pgd_step(t["x"], t["grad"], t["x0"], eps=t["eps"], step_size=t["step"], **keywords)


@pytest.mark.parametrize("mode", ["exact", "sequential"])
@pytest.mark.parametrize("elements", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_l2_step_is_one_launch(dtype, elements, mode, launches):
    tensors = drawn(dtype, 2, elements)
    results = []
    assert launches(lambda: results.append(step(FUSED, tensors, norm="l2", mode=mode))) == 1
    assert_within("l2", results[0], step(ORACLE, doubles(tensors), norm="l2", mode=mode))


@pytest.mark.parametrize("elements", SAMPLES)
def test_l2_ball_holds(elements):
    tensors = drawn(torch.float32, 3, elements)
    moved = FUSED.pgd_step(tensors["x"], tensors["grad"], tensors["x0"], eps=0.5, step_size=2.0, norm="l2")
    length = (moved.double() - tensors["x0"].double()).norm(dim=1)
    assert (length <= 0.5 * (1 + 4 * 2**-23)).all()
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("elements", SAMPLES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linf_step_is_exact_and_one_launch(dtype, elements, launches):
    tensors = drawn(dtype, 3, elements)
    results = []
    assert launches(lambda: results.append(step(FUSED, tensors))) == 1
    assert torch.equal(results[0], step(ORACLE, tensors))
    keywords = {"eps": 0.1, "step_size": 0.01}
    arguments = (tensors["x"], tensors["grad"], tensors["x0"])
    assert torch.equal(FUSED.pgd_step(*arguments, **keywords), ORACLE.pgd_step(*arguments, **keywords))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_a_step_in_place_writes_nothing_beside_its_slice(start, norm):
    tensors = drawn(torch.float32, 3, 64)
    expected = step(ORACLE, doubles(tensors), norm=norm)
    buffer = torch.full([3 * 64 + 8], 7.0)
    x = buffer[start : start + 3 * 64].view(3, 64).copy_(tensors["x"])
    FUSED.pgd_step_(x, tensors["grad"], tensors["x0"], eps=tensors["eps"], step_size=tensors["step"], norm=norm)
    assert_within("l2", x.clone(), expected)
    assert (buffer[:start] == 7).all()
    assert (buffer[start + 3 * 64 :] == 7).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("elements", [64, 8200, 63])
def test_gradients_that_point_nowhere_or_hardly(elements, norm):
    tensors = drawn(torch.float32, 6, elements)
    tensors["grad"][0] = 0
    tensors["grad"][1, 1] = math.nan
    tensors["grad"][2, 1] = math.inf
    tensors["grad"][3] *= 1e-38
    tensors["grad"][4] *= 1e30
    tensors["grad"][5] = -0.0
    # Ball and box are far away, so that the l2 step itself is seen.
    keywords = {"norm": norm, "bounds": None} if norm == "l2" else {}
    tensors["eps"].fill_(10)
    # In float64 the smallest of these gradients would be others than in float32.
    expected = step(ORACLE, tensors, **keywords)
    assert_within(norm, step(FUSED, tensors, **keywords), expected.double())
    assert torch.equal(FUSED.project(expected, tensors["x0"], eps=0.0, norm=norm), tensors["x0"])


@pytest.mark.parametrize("elements", [64, 8200, 63])
def test_project_at_its_edges(elements):
    tensors = drawn(torch.float32, 4, elements)
    far = tensors["x0"] + 1e15 * tensors["grad"]
    for eps in (0.0, 1e-30, 0.5, math.inf):
        expected = ORACLE.project(far.double(), tensors["x0"].double(), eps=eps, norm="l2")
        assert_within("l2", FUSED.project(far, tensors["x0"], eps=eps, norm="l2"), expected)
    far[2, 5] = math.nan
    assert FUSED.project(far, tensors["x0"], eps=1.0, norm="l2")[2].isnan().any()
    assert not FUSED.project(far, tensors["x0"], eps=1.0, norm="l2")[3].isnan().any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 5, 7), (1, 3, 40, 41), (3, 9000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_start(dtype, shape, norm, launches):
    x0 = Draw(dtype).pixels(shape)
    keywords = {"eps": 0.5, "norm": norm, "seed": -3}
    results = []
    assert launches(lambda: results.append(FUSED.random_start(x0, **keywords))) == 1
    if norm == "linf":
        assert torch.equal(results[0], ORACLE.random_start(x0, **keywords))
    else:
        assert_within("noise", results[0], ORACLE.random_start(x0.double(), **keywords))
    if len(shape) == 4:
        last = FUSED.random_start(x0.contiguous(memory_format=torch.channels_last), **keywords)
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(last, results[0])


def stein(dtype, images, particles, elements):
    draw = Draw(dtype)
    x0 = draw.pixels((images, elements))
    size = (images, particles, elements)
    return {"x": x0[:, None] + draw.normal(size, 0.02), "score": draw.normal(size), "x0": x0}


def svgd(library, t, **keywords):
    return library.svgd_step(t["x"], t["score"], t["x0"], **keywords)


def assert_moves_as_the_reference(tensors, **keywords):
    exact = doubles(tensors)
    doubtful = None
    if keywords["update"] == "sign":
        free = keywords | {"update": "raw", "eps": math.inf, "step_size": 1.0, "bounds": None, "norm": "linf"}
        phi = svgd(ORACLE, exact, **free) - exact["x"]
        doubtful = phi.abs() <= 1e-4 * phi.square().mean().sqrt()
        if keywords["norm"] == "l2":
            # One element that goes the other way changes how far all go.
            tensors["score"].masked_fill_(doubtful, 100.0)
            exact, doubtful = doubles(tensors), None
    assert_within("svgd", svgd(FUSED, tensors, **keywords), svgd(ORACLE, exact, **keywords), doubtful=doubtful)


# Images, particles, elements: alone on a block, in registers, in two launches held and streamed, as many as there can be.
PARTICLES = [(2, 1, 64), (3, 4, 64), (2, 5, 67), (1, 32, 40), (1, 4, 8192), (1, 2, 16400), (1, 12, 4099)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("update", ["sign", "l2", "raw"])
@pytest.mark.parametrize("size", PARTICLES, ids=str)
def test_svgd_step(size, update, norm):
    scale = "rms" if update == "l2" else 0.7
    keywords = {"eps": 0.3, "step_size": 0.1, "norm": norm, "update": update, "score_scale": scale}
    assert_moves_as_the_reference(stein(torch.float32, *size), **keywords)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("elements", [64, 16400])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_svgd_step_in_every_dtype(dtype, elements, norm):
    keywords = {"eps": 0.3, "step_size": 0.1, "norm": norm, "update": "raw", "score_scale": "rms"}
    assert_moves_as_the_reference(stein(dtype, 2, 4, elements), **keywords)


@pytest.mark.parametrize(("size", "count"), [((2, 4, 3072), 1), ((1, 4, 6148), 2), ((1, 32, 3072), 2)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_svgd_step_is_one_launch_where_particles_fit_a_cache(size, count, norm, launches):
    tensors = stein(torch.float32, *size)
    assert launches(lambda: svgd(FUSED, tensors, eps=0.3, step_size=0.1, norm=norm)) == count


@pytest.mark.parametrize("elements", [64, 16400])
def test_particles_that_coincide_and_scores_that_are_undefined(elements):
    tensors = stein(torch.float32, 3, 4, elements)
    tensors["x"][0] = tensors["x"][0, :1]
    tensors["score"][1, 2, 5] = math.nan
    tensors["score"][2] = 0
    for scale in (1.0, "rms"):
        keywords = {"eps": 0.3, "step_size": 0.1, "update": "raw", "score_scale": scale}
        assert_within("svgd", svgd(FUSED, tensors, **keywords), svgd(ORACLE, doubles(tensors), **keywords))


def test_more_particles_than_fit_are_refused():
    with pytest.raises(ValueError, match="at most 32 particles"):
        svgd(FUSED, stein(torch.float32, 1, 33, 8), eps=0.3, step_size=0.1)


# A warp a row up to 128 classes; held, the longest held, streamed 16 bytes at a time, streamed one by one.
CLASSES = [2, 128, 136, 1000, 4096, 4104, 129]
LOSSES = {
    "kl_distill": lambda f, t: f.kl_distill_value_and_grad(t["s"], t["t"], temperature=4.0),
    "kd_loss": lambda f, t: f.kd_loss_value_and_grad(t["s"], t["t"], t["y"]),
    "loss_matching": lambda f, t: f.loss_matching_value_and_grad(t["s"], t["t"], t["y"]),
    "attack_loss_ce": lambda f, t: f.attack_loss_value_and_grad(t["s"], t["y"]),
    "attack_loss_kl": lambda f, t: f.attack_loss_value_and_grad(t["s"], kind="kl", reference=t["t"]),
}


class OracleOfLosses:
    """The value-and-gradient functions of the reference, which live in its modules."""

    from fastadv.reference.attack_loss import attack_loss_value_and_grad
    from fastadv.reference.divergence import kd_loss_value_and_grad, kl_distill_value_and_grad
    from fastadv.reference.matching import loss_matching_value_and_grad


def logits(dtype, samples, classes):
    draw = Draw(dtype)
    shape = (samples, classes)
    return {"s": draw.normal(shape, 2.0), "t": draw.normal(shape, 3.0), "y": draw.classes(samples, classes)}


def assert_loss_agrees(loss, tensors, kind="loss"):
    exact = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
    actual, expected = LOSSES[loss](FUSED, tensors), LOSSES[loss](OracleOfLosses, exact)
    for result, value in zip(actual, expected, strict=False):
        if result is not None:
            assert_within(kind, result, value)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss, dtype, classes):
    assert_loss_agrees(loss, logits(dtype, 3, classes))


@pytest.mark.parametrize("classes", [10, 1000, 4104, 129])
@pytest.mark.parametrize("loss", LOSSES)
def test_saturated_and_absent_logits(loss, classes):
    tensors = logits(torch.float32, 5, classes)
    tensors["s"][0] *= 1e4
    tensors["t"][0] *= -1e4
    # One class of the teacher is impossible; the student gives all its weight to another.
    tensors["t"][1, 1] = -math.inf
    tensors["y"][1] = 0
    tensors["s"][2, 3] = math.nan
    tensors["s"][3] = -math.inf
    tensors["t"][4, :] = 7.0
    assert_loss_agrees(loss, tensors)


@pytest.mark.parametrize("classes", [10, 1000, 4104, 129])
@pytest.mark.parametrize("loss", ["kd_loss", "loss_matching", "attack_loss_ce"])
def test_a_target_that_is_no_class_makes_its_row_nan(loss, classes):
    tensors = logits(torch.float32, 4, classes)
    tensors["y"][1:3] = torch.tensor([-1, 2**40])
    value, grad, *_ = LOSSES[loss](FUSED, tensors)
    assert value.isnan().tolist() == [False, True, True, False]
    assert grad.isnan().all(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("samples", "classes", "count"), [(64, 100, 1), (128, 10, 1), (129, 10, 2), (1, 1000, 1), (3, 1000, 2), (0, 10, 1)]
)
def test_the_mean_over_a_batch(samples, classes, count, dtype, launches):
    tensors = logits(dtype, samples, classes)
    results = []
    assert launches(lambda: results.append(FUSED.kl_distill(tensors["s"], tensors["t"]))) == count
    assert_within("loss", results[0], ORACLE.kl_distill(tensors["s"].double(), tensors["t"].double()))
    assert torch.equal(FUSED.kl_distill(tensors["s"], tensors["t"]).nan_to_num(), results[0].nan_to_num())


@pytest.mark.parametrize("shape", [(3, 64), (3, 7), (1, 1), (200, 8)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_grad(dtype, shape):
    stored = Draw(torch.float64 if dtype == torch.float64 else torch.float32).normal(shape)
    for factor in (stored[:, 0].contiguous(), stored[0, 0].clone()):
        expected = ORACLE.scale_grad(stored.double(), factor.double(), dtype)
        assert_within("scale", FUSED.scale_grad(stored, factor, dtype), expected)
