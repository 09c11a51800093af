"""Two processes that take turns; here both measure the same tree."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

from benchmarks.studies import compare_commits


def test_both_sides_measure_the_fastadv_of_their_tree(tmp_path):
    process = compare_commits.Process(compare_commits.ROOT, tmp_path / "child")
    with contextlib.closing(process):
        with pytest.raises(compare_commits.Failed, match="KeyError: 'no such case'"):
            process.ask(do="prepare", case="no such case", result=str(tmp_path / "x"))
        before, now, times, difference = compare_commits.compare(
            "pgd_step linf 1x3x32x32", process, process, tmp_path, rounds=4
        )
    assert difference == 0
    assert 0.2 < times.median < 5
    assert before.median > 0
    assert now.median > 0
    assert torch.load(tmp_path / "here-result", weights_only=True).shape == (1, 3, 32, 32)


def test_another_fastadv_than_the_trees_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_commits, "ROOT", tmp_path)
    (tmp_path / "benchmarks" / "studies").mkdir(parents=True)
    said = json.dumps({"answer": "/somewhere/else/fastadv/__init__.py"})
    (tmp_path / "benchmarks" / "studies" / "worker.py").write_text(f"input()\nprint({said!r})")
    with pytest.raises(SystemExit, match="the fastadv that would be measured is"):
        compare_commits.Process(tmp_path / "tree", tmp_path / "child")


def test_the_cases_are_this_trees_whatever_benchmarks_is_on_the_path(tmp_path, monkeypatch):
    other = tmp_path / "other" / "benchmarks"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('the benchmarks of another commit')")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    process = compare_commits.Process(compare_commits.ROOT, tmp_path / "child")
    with contextlib.closing(process):
        assert process.ask(do="where").startswith(str(compare_commits.ROOT))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-commit"], "base: expected a commit of this repository, got 'no-such-commit'"),
        ([""], "base: expected a commit of this repository, got ''"),
        (["HEAD", "--only", "no such op"], "--only: no case has 'no such op' in its name"),
    ],
)
def test_what_cannot_be_compared_is_said(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare_commits", *arguments])
    with pytest.raises(SystemExit) as stopped:
        compare_commits.main()
    assert message in f"{stopped.value} {capsys.readouterr().err}"
