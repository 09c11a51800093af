"""A row is correct before it is timed, and holds all that the pages are made of."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import results, terminal
from benchmarks.case import Missing
from benchmarks.cases import selected
from benchmarks.floor import Floor
from benchmarks.measure import Effort, host_clock
from benchmarks.runner import Conditions, Differs, run

CPU = torch.device("cpu")
QUICK = Effort(rounds=4, fewest_rounds=4, round_seconds=0.0, warm_up_seconds=0.0)
FLOOR = Floor({1024: 1e-6, 2**20: 1e-4}, {1024: 2e-6, 2**20: 2e-4}, 1e11)


@pytest.fixture
def conditions():
    return Conditions(CPU, host_clock, host_clock, QUICK)


def entry_with(**changes):
    """The smallest linf step, not compiled, its case changed."""
    (entry,) = (entry for entry in selected() if entry.name == "pgd_step linf 4x3x32x32")
    return dataclasses.replace(entry, build=lambda device: dataclasses.replace(entry.build(device), **changes))


def test_a_wrong_result_is_not_timed(conditions, monkeypatch):
    monkeypatch.setattr("benchmarks.runner.interleaved", lambda *given: pytest.fail("timed all the same"))
    right = entry_with().build(CPU).fused
    with pytest.raises(Differs, match=r"fused: results differ by 1\.\d+e-06"):
        run(entry_with(fused=lambda: right() + 1e-6), conditions)


def test_an_opponent_that_is_wrong_or_missing_costs_only_itself(conditions):
    def missing():
        raise Missing("not here")

    def broken():
        raise ZeroDivisionError("by zero")

    right = entry_with().build(CPU).fused
    rivals = {
        "right": lambda: right,
        "wrong": lambda: lambda: right() + 1,
        "missing": missing,
        "broken": lambda: broken,
    }
    row = run(entry_with(rivals=rivals), conditions)
    assert list(row["seconds"]) == ["fused", "eager", "right"]
    assert row["missing"] == {
        "compiled": "compiled with --all only",
        "missing": "not here",
        "wrong": "results differ by 1.00e+00, more than 0e+00",
        "broken": "ZeroDivisionError: by zero",
    }


def test_a_row_is_shown_beside_its_floor(conditions):
    row = run(entry_with(), conditions, FLOOR)
    tensors = 4 * 3 * 32 * 32 * 4
    assert row["bytes"] == 4 * tensors
    assert row["floor_seconds"] == FLOOR.seconds(4 * tensors)
    assert row["share_of_floor"] == row["floor_seconds"] / row["seconds"]["fused"]["median"]
    cold = FLOOR.seconds(4 * tensors, cold=True) / row["cold_seconds"]["fused"]["median"]
    assert row["cold_share_of_floor"] == cold
    assert row["peak_bytes"]["fused"] == tensors
    assert row["peak_bytes"]["eager"] > tensors


def test_a_row_says_what_is_to_be_known_of_it(conditions):
    row = run(entry_with(note="the same code on both sides"), conditions)
    assert row["note"] == "the same code on both sides"
    assert "\n  the same code on both sides\n" in terminal.row(row)


def test_a_case_that_differs_stops_itself_only(conditions, monkeypatch, tmp_path):
    right = entry_with()
    off = dataclasses.replace(entry_with(fused=lambda: torch.zeros(())), name="off")
    output = tmp_path / "results.json"
    monkeypatch.setattr(command, "selected", lambda *given, **options: [off, right])
    monkeypatch.setattr(command.Conditions, "of", lambda *given, **options: conditions)
    monkeypatch.setattr(command.Floor, "measure", lambda device: FLOOR)
    monkeypatch.setattr(command, "overhead", lambda device: {})
    monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(output)])
    with pytest.raises(SystemExit, match="1 cases failed"):
        command.main()
    written = json.loads(output.read_text())
    assert [row["case"] for row in written["rows"]] == [right.name]
    assert written["not_timed"] == ["off: fused: results differ by inf, more than 0e+00; nothing was timed"]
    assert Floor.from_json(written["floor"]) == FLOOR
    lines = output.with_suffix(".csv").read_text().splitlines()
    assert lines[0] == ",".join(results.COLUMNS)
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [right.name, "pgd_step", variant] for variant in ("fused", "eager", "compiled")
    ]
