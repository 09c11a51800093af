"""Long samples and rows, which Triton's programs share: small samples have several parts here, of few elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import fastadv
from tests.ops.available import computing_on
from tests.ops.cases import CASES, FUSED, ORACLE, SIZES, Case, Draw, in_float64
from tests.ops.tolerance import assert_within

OPS = ("project", "random_start", "pgd_step", "pgd_step_", "momentum_step", "bss_step", "svgd_step")
# Where neither a norm nor a mean is needed, blocks of elements are programs of their own.
SHARED = [case for case in CASES if case.op in OPS and (case.kind != "linf" or case.op == "momentum_step")]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many elements in a part as in a tile, and more than one part from then on; on Triton."""
    with computing_on("triton"):
        from fastadv.kernels import parts

        monkeypatch.setattr(parts, "_PART", 1024)
        monkeypatch.setattr(parts, "_ALONE", 1024)
        yield


def test_a_sample_in_which_a_place_is_no_int32_is_refused() -> None:
    from fastadv.kernels import parts

    assert parts.parts_of(parts._LONGEST)[0] == parts._LONGEST // 1024
    with pytest.raises(ValueError, match="a sample must have at most 2147467264 elements for Triton, got 2147483648"):
        parts.parts_of(2**31)


@pytest.mark.parametrize("case", [case for case in CASES if case.op in ("svgd_step", "square_propose")], ids=str)
def test_a_step_refuses_such_a_sample(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadv.kernels import parts

    monkeypatch.setattr(parts, "_LONGEST", 440)
    with pytest.raises(ValueError, match=r"a sample must have at most 440 elements for Triton, got (441|1323)"):
        case.call(FUSED, case.make(Draw(torch.float32), (2, 3, 21, 21)))


def test_more_particles_than_a_tile_holds_are_refused() -> None:
    particles = torch.rand(1, 1025, 2)
    with pytest.raises(ValueError, match="particles must be at most 1024 an image for Triton, got 1025"):
        fastadv.svgd_step(particles, particles, particles[:, 0], eps=0.1, step_size=0.01)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_agreement(case: Case, dtype: torch.dtype) -> None:
    # Five parts of images, two of particles.
    tensors = case.make(Draw(dtype), SIZES[case.sizes][-1])
    exact = in_float64(tensors)
    doubtful = case.doubtful(ORACLE, exact)
    expected = case.evaluate(ORACLE, exact)[0]
    assert_within(case.kind, case.evaluate(FUSED, tensors)[0], expected, doubtful=doubtful)


EDGES = {"nan": torch.nan, "inf": torch.inf, "huge": 3e38, "tiny": 1e-45, "zero": 0.0}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_edges_in_one_part_are_those_of_the_sample(norm: str, edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in one part as in several: a gradient that is all, or has one, of what no length can be taken of."""
    from fastadv.kernels import parts

    draw = Draw(torch.float32)
    x0, grad = draw.pixels((3, 2500)), draw.gradient((3, 2500))
    grad[1, 1700], grad[2] = EDGES[edge], EDGES[edge]
    x = x0 + draw.normal((3, 2500), 0.05)

    def results() -> list[torch.Tensor]:
        how: dict[str, Any] = {"eps": 2.0, "step_size": 1.0, "norm": norm}
        step = fastadv.pgd_step(x, grad, x0, **how)
        return [step, *fastadv.momentum_step(x, grad, grad.flip(0), x0, **how), fastadv.project(x * grad, x0, eps=1.0)]

    shared = results()
    monkeypatch.setattr(parts, "_ALONE", 4000)
    for several, one in zip(shared, results(), strict=True):
        torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_search_that_needs_more_passes_than_are_shared_out(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastadv.kernels import shared_samples

    draw = Draw(torch.float64)
    x0 = draw.pixels((2, 2500))
    x = x0 + draw.normal((2, 2500), 0.3)
    results = []
    for passes in (1, 12):
        monkeypatch.setattr(shared_samples, "_SHARED_PASSES", {1: passes, 2: passes})
        results.append(fastadv.project(x, x0, eps=3.0, norm=norm))
    torch.testing.assert_close(*results, rtol=0, atol=1e-13)
    torch.testing.assert_close(results[0], ORACLE.project(x, x0, eps=3.0, norm=norm), rtol=0, atol=1e-13)


ONE_OF_EACH = ("project-l1", "random_start-l2", "pgd_step_-l2", "pgd_step-l1", "momentum_step-l2", "bss_step")


@pytest.mark.parametrize("case", [case for case in SHARED if case.name in ONE_OF_EACH], ids=str)
def test_a_sample_is_the_same_in_every_batch(case: Case) -> None:
    tensors = case.make(Draw(torch.float32), (3, 1, 41, 43))
    alone = {name: t[:1] if t.dim() and t.shape[0] == 3 else t for name, t in tensors.items()}
    together, first = case.call(FUSED, tensors), case.call(FUSED, alone)
    assert torch.equal(together[:1], first)


LOSSES = [case for case in CASES if case.name in ("kl_distill", "kd_loss", "js_distill", "dkd_loss", "loss_matching")]
# More than two parts of rows, which are shorter than those of samples.
ROWS = {torch.float32: (2, 9001), torch.float64: (2, 4999)}


@pytest.mark.parametrize("dtype", ROWS, ids=str)
@pytest.mark.parametrize("case", LOSSES, ids=str)
def test_a_row_is_the_same_whether_shared_or_not(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastadv.kernels import rows

    tensors = case.make(Draw(dtype), ROWS[dtype])
    shared = case.evaluate(FUSED, tensors)
    monkeypatch.setattr(rows, "_FEW_ROWS", 0)
    for several, one in zip(shared, case.evaluate(FUSED, tensors), strict=True):
        assert torch.equal(several, one)
    for result, expected in zip(shared, case.evaluate(ORACLE, in_float64(tensors)), strict=True):
        assert_within(case.kind, result, expected)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_infinite_and_undefined_logits_of_shared_rows(temperature: float) -> None:
    draw = Draw(torch.float32)
    student, teacher = draw.normal((6, 9001)), draw.normal((6, 9001))
    # A whole part that neither can choose, one that the teacher cannot; classes that only the teacher chooses; edges.
    student[0, :4096] = teacher[0, :4096] = -torch.inf
    teacher[1, 4096:8192] = -torch.inf
    student[2, 8999] = -torch.inf
    student[3, 5000], teacher[4, 5000], teacher[5] = torch.nan, torch.inf, -torch.inf
    expected = ORACLE.kl_distill(student, teacher, temperature=temperature, reduction="none")
    actual = fastadv.kl_distill(student, teacher, temperature=temperature, reduction="none")
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
