"""The trainer's step and the plain loop of a recipe have one loss, and nothing is timed where they have not."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks.studies import training_step
from benchmarks.studies.plain_loops import PlainIGDM, PlainTALD
from benchmarks.studies.training_step import ROWS, TOLERANCE, Bench, Scale
from benchmarks.suite.runner import Differs

SMALL = Scale(teacher="resnet8", student="resnet8", batch=4)


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_the_first_losses_agree(row, tmp_path):
    losses = Bench(dataclasses.replace(row, compiled=False), SMALL, tmp_path).compare()
    assert losses["float32"] == pytest.approx(losses["plain"], rel=TOLERANCE)
    assert losses["as_run"] == pytest.approx(losses["plain"], rel=0.1)


class OtherTALD(PlainTALD):
    def attack(self, x, y, start):
        return super().attack(x, y.roll(1), start)


class OtherIGDM(PlainIGDM):
    def loss(self, x, y, attacked):
        return 1.01 * super().loss(x, y, attacked)


@pytest.mark.parametrize(
    ("row", "plain", "reason"),
    [(ROWS[0], OtherTALD, "of the attacked pixels are equal"), (ROWS[3], OtherIGDM, "the first losses are")],
)
def test_another_recipe_is_not_timed(row, plain, reason, monkeypatch):
    monkeypatch.setattr(training_step, "_timed", lambda *given: pytest.fail("timed all the same"))
    with pytest.raises(Differs, match=reason):
        training_step.measure(dataclasses.replace(row, plain=plain), SMALL, rounds=2)


def test_a_row_says_how_fast_and_where_the_time_went(monkeypatch):
    # Where a CPU has no bfloat16, its products of this size take half a minute each.
    monkeypatch.setattr(training_step, "PRODUCT", 64)
    result = training_step.measure(ROWS[1], SMALL, rounds=2)
    shares = result["shares"]
    assert list(shares) == ["model", "update", "data", "host"]
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values())
    machine = {"cpu": "a CPU", "gpu": "none", "threads": 1, "torch": "2", "fastadv": "0"}
    written = json.loads(json.dumps({"machine": machine, "teacher_weights": "random", "batch": 4, "rows": [result]}))
    page = training_step.page(written)
    assert f"| {ROWS[1].name} | {result['images_per_second']['fused']:.1f} |" in page
    assert f"| 2.5 | {training_step.arithmetic(result):.2f} |" in page


def test_the_arithmetic_is_that_of_a_matrix_product():
    # Ten seconds of a step that a machine of 5 operations a second could make in 4.
    row = {"operations": 20, "product_operations_per_second": 5, "seconds": {"fused": [10.0], "plain": [30.0]}}
    assert training_step.arithmetic(row) == pytest.approx(0.4)
    assert training_step.arithmetic(row, ratio=3) == pytest.approx(0.4)
    assert training_step.arithmetic(row, ratio=7.5) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "no such row"], "--only: no row has 'no such row' in its name"),
        (["--checkpoints", "nowhere"], "--checkpoints: nowhere/cifar100_resnet56.pth: no such file"),
    ],
)
def test_what_cannot_be_trained_is_said(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["training_step", *arguments])
    with pytest.raises(SystemExit):
        training_step.main()
    assert message in capsys.readouterr().err
