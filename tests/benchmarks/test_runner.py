"""A row is correct before it is timed, and holds all that the pages are made of."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks import __main__ as command
from benchmarks.cases import registry, selected
from benchmarks.suite import results, terminal
from benchmarks.suite.case import Missing
from benchmarks.suite.floor import Floor
from benchmarks.suite.measure import Effort, host_clock
from benchmarks.suite.runner import Conditions, Differs, run, variants_of

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
    monkeypatch.setattr("benchmarks.suite.runner.interleaved", lambda *given: pytest.fail("timed all the same"))
    right = entry_with().build(CPU).fused
    with pytest.raises(Differs, match=r"fused: results differ by 1\.\d+e-06"):
        run(entry_with(fused=lambda: right() + 1e-6), conditions)


def test_an_opponent_that_is_wrong_or_missing_costs_only_itself(conditions):
    def missing():
        raise Missing("not here")

    def broken():
        raise ZeroDivisionError("by zero")

    right = entry_with().build(CPU).fused
    opponents = {
        "right": lambda: right,
        "wrong": lambda: lambda: right() + 1,
        "missing": missing,
        "broken": lambda: broken,
    }
    row = run(entry_with(opponents=opponents), conditions)
    assert list(row["seconds"]) == ["fused", "eager", "right"]
    assert row["missing"] == {
        "compiled": "compiled with --all only",
        "missing": "not here",
        "wrong": "results differ by 1.00e+00, more than 0e+00",
        "broken": "ZeroDivisionError: by zero",
    }


@pytest.mark.parametrize(
    "name",
    [
        "kl_distill 64x10 value and gradient",
        "igdm_loss 64x10 value and gradient",
        "attack_loss dlr 64x10 value and gradient",
        "attack_loss cw 64x10 value and gradient",
        "triplet_margin_loss 64x256 value and gradients",
    ],
)
def test_a_compiled_formula_is_one_graph(name, conditions, monkeypatch):
    """Though it asks autograd for its gradient: an opponent in pieces would be several times as slow."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    (entry,) = (entry for entry in registry() if entry.name == name)
    with torch._dynamo.config.patch(trace_autograd_ops=False):
        variants, _ = variants_of(entry.build(CPU), entry, conditions)
        counters.clear()
        variants["compiled"]()
    assert dict(counters["graph_break"]) == {}
    assert counters["stats"]["unique_graphs"] == 1


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


@pytest.mark.parametrize("profiled", [True, False])
def test_the_share_of_a_network_is_told_where_a_profiler_is_no_harm(profiled, conditions, monkeypatch):
    monkeypatch.setattr("benchmarks.suite.runner.network_share", lambda call, device: 0.5)
    row = run(entry_with(work=None), dataclasses.replace(conditions, profiled=profiled))
    assert row.get("network_share") == (0.5 if profiled else None)


def test_a_row_says_what_is_to_be_known_of_it(conditions):
    row = run(entry_with(note="the same code on both sides"), conditions)
    assert row["note"] == "the same code on both sides"
    assert "\n  the same code on both sides\n" in terminal.row(row)


@pytest.fixture
def measure(conditions, monkeypatch, tmp_path):
    """Run the command on the given cases, with more arguments; the file of results."""
    output = tmp_path / "results.json"

    def command_line(cases, *arguments):
        monkeypatch.setattr(command, "selected", lambda *given, **options: cases)
        monkeypatch.setattr(command.Conditions, "of", lambda *given, **options: conditions)
        monkeypatch.setattr(command.Floor, "measure", lambda device: FLOOR)
        monkeypatch.setattr(command, "overhead", lambda device: {})
        monkeypatch.setattr("sys.argv", ["benchmarks", "--output", str(output), *arguments])
        command.main()

    command_line.output = output
    return command_line


def test_a_case_that_differs_stops_itself_only(measure):
    right = entry_with()
    off = dataclasses.replace(entry_with(fused=lambda: torch.zeros(())), name="off")
    with pytest.raises(SystemExit, match="1 cases failed"):
        measure([off, right])
    written = json.loads(measure.output.read_text())
    assert [row["case"] for row in written["rows"]] == [right.name]
    assert written["not_timed"] == ["off: fused: results differ by inf, more than 0e+00; nothing was timed"]
    assert Floor.from_json(written["floor"]) == FLOOR
    lines = measure.output.with_suffix(".csv").read_text().splitlines()
    assert lines[0] == ",".join(results.COLUMNS)
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [right.name, "pgd_step", variant] for variant in ("fused", "eager", "compiled")
    ]


def test_a_case_that_fails_stops_itself_only(measure):
    def broken(device):
        raise TypeError("x: expected a tensor")

    with pytest.raises(SystemExit, match="1 cases failed"):
        measure([dataclasses.replace(entry_with(), name="broken", build=broken), entry_with()])
    written = json.loads(measure.output.read_text())
    assert len(written["rows"]) == 1
    assert written["not_timed"] == ["broken: TypeError: x: expected a tensor"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "no such op"], "--only: no case has 'no such op' in its name"),
        (["--output", "results.csv"], r"--output: expected a name that ends in \.json, got results\.csv"),
        (["--resnet56", "nowhere.pth"], "--resnet56: there is no file nowhere.pth"),
        (["--against", "nowhere.json"], "--against: .*nowhere.json"),
        (["--against", "pyproject.toml"], "--against: pyproject.toml holds no JSON"),
        (["--against", "benchmarks/results/digits-demo/results.json"], "--against: .* holds no results of this suite"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(command, "measure", lambda *given, **options: pytest.fail("measured all the same"))
    monkeypatch.chdir(results.FOLDER.parents[1])
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    assert re.search(message, capsys.readouterr().err)


def interrupt():
    raise KeyboardInterrupt


def interrupted(measure, *names):
    """Cases of these names, after the run of which the last was interrupted, and that file of what was kept."""

    cases = [dataclasses.replace(entry_with(), name=name) for name in names]
    last = dataclasses.replace(entry_with(fused=interrupt), name=names[-1])
    with pytest.raises(SystemExit, match=r"interrupted; --resume goes on after the last case in .*results.unfinished"):
        measure([*cases[:-1], last])
    return cases, measure.output.with_suffix(".unfinished")


def test_an_interrupted_run_goes_on_after_its_last_case(measure, monkeypatch):
    (first, failing, last), kept = interrupted(measure, "first", "failing", "last")
    assert not measure.output.exists()
    content = json.loads(kept.read_text())
    # As if it had failed.
    failed = content["rows"].pop(1)["case"]
    kept.write_text(json.dumps(content | {"not_timed": [failed]}))
    run, measured = command.run, []
    monkeypatch.setattr(command, "run", lambda entry, *how: measured.append(entry.name) or run(entry, *how))
    measure([first, failing, last], "--resume")
    assert measured == ["failing", "last"]
    written = json.loads(measure.output.read_text())
    assert [row["case"] for row in written["rows"]] == ["first", "failing", "last"]
    assert written["rows"][0] == content["rows"][0]
    assert written["not_timed"] == []
    assert "in parts" in written["machine"]["note"]
    assert not kept.exists()


def test_only_the_run_that_was_interrupted_goes_on(measure, monkeypatch, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit):
            measure(cases, *arguments)
        assert not measure.output.exists()
        return capsys.readouterr().err

    cases, kept = interrupted(measure, "first", "last")
    assert "was measured with --all False, this run has True" in refused("--resume", "--all")
    monkeypatch.setattr(command.machine, "commit", lambda: "another")
    assert "was measured with fastadv" in refused("--resume")
    kept.unlink()
    assert "--resume: there is no" in refused("--resume")


def test_without_resume_an_interrupted_run_begins_anew(measure):
    (first, last), kept = interrupted(measure, "first", "last")
    measure([last])
    assert [row["case"] for row in json.loads(measure.output.read_text())["rows"]] == ["last"]
    assert not kept.exists()
    (first, last), kept = interrupted(measure, "first", "last")
    with pytest.raises(SystemExit, match=r"interrupted$"):
        measure([dataclasses.replace(first, build=lambda device: interrupt())])
    assert not kept.exists()
