"""Randomly composed inputs, each against the reference in float64: shapes, layouts, dtypes and extreme values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

import fastadv
from fastadv.reference import attack_loss
from tests.ops.available import BACKENDS, computing_on
from tests.ops.cases import ORACLE, Draw, in_float64
from tests.ops.layouts import LAYOUTS, Guarded
from tests.ops.tolerance import assert_within

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
FEW = settings(max_examples=40, derandomize=True, deadline=None, database=None)
SEEDS = st.integers(0, 2**20)


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).flatmap(
        lambda sample: st.integers(0, 4).map(lambda samples: (samples, *sample))
    ),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=DTYPES,
    norm=st.sampled_from(["linf", "l2", "l1"]),
    mode=st.sampled_from(["exact", "sequential"]),
    eps=st.sampled_from([0.0, 1e-4, 8 / 255, 0.5, 30.0, math.inf]),
    step_size=st.sampled_from([0.0, -0.01, 0.01, 1.0, 100.0]),
    bounds=st.sampled_from([(0.0, 1.0), None, (0.25, 0.25), (-math.inf, 0.5)]),
    seed=SEEDS,
)
def test_pgd_step(backend, shape, layout, dtype, norm, mode, eps, step_size, bounds, seed):
    draw = Draw(dtype, seed)
    x0 = draw.pixels(shape) if bounds is None else draw.pixels(shape).clamp(*bounds)
    values = {"x": x0 + draw.normal(shape, 0.05), "grad": draw.gradient(shape), "x0": x0}
    guarded = Guarded()
    t = guarded.place(values, layout)
    keywords = {"eps": eps, "step_size": step_size, "norm": norm, "mode": mode, "bounds": bounds}
    with computing_on(backend):
        actual = fastadv.pgd_step(t["x"], t["grad"], t["x0"], **keywords)
    guarded.assert_untouched()
    exact = in_float64(t)
    expected = ORACLE.pgd_step(exact["x"], exact["grad"], exact["x0"], **keywords)
    # What an l1 projection takes away from far outside is known to the rounding of how far that is.
    scale = max(1.0, abs(step_size)) if norm == "l1" else 1.0
    assert_within("l1" if norm == "l1" else "l2", actual / scale, expected / scale)
    if norm == "linf":
        assert torch.equal(actual, ORACLE.pgd_step(t["x"], t["grad"], t["x0"], **keywords))


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(
    samples=st.integers(0, 4),
    classes=st.integers(1, 70),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=DTYPES,
    temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e3]),
    excluded=st.booleans(),
    seed=SEEDS,
)
def test_kl_distill(backend, samples, classes, layout, dtype, temperature, spread, excluded, seed):
    draw = Draw(dtype, seed)
    values = {name: draw.normal((samples, classes), spread) for name in ("s", "t")}
    if excluded:
        values["t"][:, 1:2] = -math.inf
    guarded = Guarded()
    t = guarded.place(values, layout)
    exact = in_float64(t)
    with computing_on(backend):
        keywords = {"temperature": temperature, "reduction": "none"}
        actual = fastadv.kl_distill(t["s"], t["t"], **keywords)
    guarded.assert_untouched()
    expected = ORACLE.kl_distill(exact["s"], exact["t"], **keywords)
    # Logits of the size of the spread, divided by T and multiplied by T^2, are rounded to 24 bits.
    scale = max(1.0, temperature**2, temperature * spread)
    assert_within("loss", actual / scale, expected / scale)


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(
    samples=st.integers(0, 4),
    classes=st.integers(4, 70),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=DTYPES,
    kind=st.sampled_from(["cw", "dlr"]),
    targeted=st.booleans(),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e3]),
    excluded=st.booleans(),
    seed=SEEDS,
)
def test_ranked_attack_losses(backend, samples, classes, layout, dtype, kind, targeted, spread, excluded, seed):
    draw = Draw(dtype, seed)
    values = {"s": draw.normal((samples, classes), spread)}
    if excluded:
        values["s"][:, 1:2] = -math.inf
    values |= {"y": draw.classes(samples, classes), "truth": draw.classes(samples, classes)}
    guarded = Guarded()
    t = guarded.place(values, layout)
    keywords = {"kind": kind, "targeted": targeted}
    if kind == "dlr" and targeted:
        keywords["reference"] = t["truth"]
    with computing_on(backend):
        actual = fastadv.attack_loss_value_and_grad(t["s"], t["y"], **keywords)
    guarded.assert_untouched()
    value, grad = attack_loss.attack_loss_value_and_grad(t["s"].double(), t["y"], **keywords)
    for row in range(samples):
        assert_within("loss", actual[0][row], value[row])
        # The derivatives by numerator and denominator may cancel.
        first, _, third = t["s"][row].double().topk(3).values.tolist()
        terms = 1 + value[row].nan_to_num(posinf=0, neginf=0).abs().item()
        steepness = 1.0 if kind == "cw" else max(1.0, terms / (first - third + 1e-12))
        assert_within("loss", actual[1][row] / steepness, grad[row] / steepness)


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(
    samples=st.integers(0, 4),
    features=st.integers(1, 70),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=DTYPES,
    p=st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0, math.inf]),
    eps=st.sampled_from([1e-6, 1e-2]),
    swap=st.booleans(),
    same=st.booleans(),
    seed=SEEDS,
)
def test_triplet_margin_loss(backend, samples, features, layout, dtype, p, eps, swap, same, seed):
    draw = Draw(dtype, seed)
    size, scale = (samples, features), features ** (-1 / max(p, 1.0))
    values = {"a": draw.normal(size, scale), "p": draw.normal(size, scale), "n": draw.normal(size, scale)}
    if same:
        values["n"] = values["p"].clone()
    guarded = Guarded()
    t = guarded.place(values, layout)
    keywords = {"p": p, "eps": eps, "swap": swap, "reduction": "none"}
    with computing_on(backend):
        actual = fastadv.triplet_margin_loss(t["a"], t["p"], t["n"], **keywords)
    guarded.assert_untouched()
    exact = in_float64(t)
    assert_within("metric", actual, ORACLE.triplet_margin_loss(exact["a"], exact["p"], exact["n"], **keywords))


@pytest.mark.parametrize("backend", BACKENDS)
@FEW
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).flatmap(
        lambda sample: st.integers(0, 4).map(lambda samples: (samples, *sample))
    ),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=DTYPES,
    margin=st.sampled_from([0.0, 0.5, 30.0]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    seed=SEEDS,
)
def test_activation_boundary_loss(backend, shape, layout, dtype, margin, spread, seed):
    draw = Draw(dtype, seed)
    guarded = Guarded()
    t = guarded.place({"s": draw.normal(shape, spread), "t": draw.gradient(shape)}, layout)
    with computing_on(backend):
        actual = fastadv.activation_boundary_loss(t["s"], t["t"], margin=margin, reduction="none")
    guarded.assert_untouched()
    exact = in_float64(t)
    expected = ORACLE.activation_boundary_loss(exact["s"], exact["t"], margin=margin, reduction="none")
    assert_within("loss", actual, expected)
