"""The script behind ``make gpu-check``, with parts that need no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_check as check
import pytest
from gpu_check import Part, Step

FACTS = {"gpu": "none", "commit": "abc"}
TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
@pytest.mark.skip(reason="not here")
def test_absent(): pass
"""
HANG = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10**6)"])
with open(os.environ["FILE"] + ".part", "w") as file:
    file.write(str(child.pid))
os.rename(file.name, os.environ["FILE"])
child.wait()
"""
MEASURED = {
    "machine": {"copy_bytes_per_second": 4e12},
    "rows": [
        {
            "case": "step",
            "seconds": {"fused": {"median": 2e-6}, "eager": {"median": 1e-5}, "replayed": {"median": 1e-6}},
            "bytes_per_second": {"fused": 1e12, "replayed": 2e12},
        }
    ],
    "not_timed": ["loss: results differ by 1.00e+00"],
}


def script(name, code, report="", **environment):
    return Step(name, (sys.executable, "-c", code, *(["{report}"] if report else [])), report, environment)


def pytest_on(path, *options):
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *options,
        str(path),
        "--junitxml={report}",
    )
    return Step("tests", command, "tests.xml")


GOOD, BAD = Part("good", (script("one", "print(1)"),)), Part("bad", (script("one", "raise SystemExit(3)"),))


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "gpu.json"


def test_a_failing_part_does_not_keep_the_next_from_running(results, tmp_path):
    assert not check.check([BAD, GOOD], FACTS, results, tmp_path, None)
    written = json.loads(results.read_text())
    assert written["machine"] == FACTS
    assert [(name, part["outcome"]) for name, part in written["parts"].items()] == [
        ("bad", "failed"),
        ("good", "passed"),
    ]
    assert written["parts"]["bad"]["failures"] == ["one: exit status 3"]
    assert "one: exit status 3" in results.with_suffix(".txt").read_text()
    assert check.check([GOOD], FACTS, results, tmp_path, None)


def test_a_failing_step_does_not_keep_the_next_from_running(tmp_path):
    ran = tmp_path / "ran"
    part = Part("part", (*BAD.steps, script("two", f"open({str(ran)!r}, 'w')")))
    assert check.run(part, tmp_path).outcome == "failed"
    assert ran.exists()


def test_other_parts_stay_if_machine_and_commit_are_the_same(results, tmp_path):
    check.check([BAD], FACTS, results, tmp_path, None)
    check.check([GOOD], FACTS, results, tmp_path, None)
    assert list(json.loads(results.read_text())["parts"]) == ["bad", "good"]
    check.check([GOOD], FACTS | {"commit": "def"}, results, tmp_path, None)
    assert list(json.loads(results.read_text())["parts"]) == ["good"]


def test_results_are_kept_after_each_part(results, tmp_path):
    reading = script("read", f"import json; assert list(json.load(open({str(results)!r}))['parts']) == ['good']")
    assert check.check([GOOD, Part("reading", (reading,))], FACTS, results, tmp_path, None)


def test_tests_are_counted_and_failures_told(tmp_path):
    (tmp_path / "test_three.py").write_text(TESTS)
    outcome = check.run(Part("part", (pytest_on(tmp_path / "test_three.py"),)), tmp_path)
    assert outcome.outcome == "failed"
    assert outcome.tests == {"passed": 1, "failed": 1, "skipped": 1}
    assert "test_three::test_bad: AssertionError: one is not two" in outcome.failures[0]
    assert outcome.failures[1] == "tests: exit status 1"


def test_where_nothing_was_tested_nothing_has_passed(tmp_path):
    (tmp_path / "test_three.py").write_text(TESTS)
    outcome = check.run(Part("part", (pytest_on(tmp_path / "test_three.py", "-k", "absent"),)), tmp_path)
    assert (outcome.outcome, outcome.failures) == ("failed", ["tests: no test passed"])


def test_a_report_of_an_earlier_run_does_not_count(tmp_path):
    (tmp_path / "part-report.xml").write_text("<testsuite><testcase name='old'/></testsuite>")
    outcome = check.run(Part("part", (script("silent", "", "report.xml"),)), tmp_path)
    assert (outcome.outcome, outcome.failures) == ("failed", ["silent: left no report"])


def test_benchmarks_are_kept_and_shown(results, tmp_path):
    code = f"import sys; open(sys.argv[1], 'w').write({json.dumps(MEASURED)!r}); sys.exit(1)"
    assert not check.check([Part("benchmarks", (script("cuda", code, "cuda.json"),))], FACTS, results, tmp_path, None)
    part = json.loads(results.read_text())["parts"]["benchmarks"]
    assert part["benchmarks"] == {"cuda": MEASURED}
    assert part["failures"] == [*MEASURED["not_timed"], "cuda: exit status 1"]
    row = results.with_suffix(".txt").read_text().splitlines()[-1]
    assert row.split() == ["step", "2.0", "10.0", "1.0", "0.50"]


def test_a_step_past_its_limit_ends_with_all_it_has_started(tmp_path, monkeypatch):
    started = tmp_path / "pid"

    class Late(subprocess.Popen):
        """Past its limit once it has started a process of its own."""

        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not started.exists():
                time.sleep(0.01)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr(subprocess, "Popen", Late)
    outcome = check.run(Part("part", (script("hang", HANG, FILE=str(started)),)), tmp_path, limit=9)
    assert outcome.failures == ["hang: ended after 9 seconds"]
    while running(int(started.read_text())):
        time.sleep(0.01)


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_that_is_not_there_is_a_reason_to_skip(results, tmp_path):
    assert check.check([Part("part", BAD.steps, needs="no-such-program")], FACTS, results, tmp_path, None)
    part = json.loads(results.read_text())["parts"]["part"]
    assert (part["outcome"], part["failures"]) == ("skipped", ["no-such-program is not on the PATH"])


def test_parts_are_chosen_by_name_in_their_own_order():
    assert check.chosen("", [GOOD, BAD]) == [GOOD, BAD]
    assert check.chosen("bad, good", [GOOD, BAD]) == [GOOD, BAD]
    assert check.chosen("bad", [GOOD, BAD]) == [BAD]
    with pytest.raises(SystemExit, match="there is no part ugly; there are good, bad"):
        check.chosen("ugly,bad", [GOOD, BAD])


def test_what_the_parts_name_is_there():
    for part in check.parts():
        for step in part.steps:
            paths = [word.removeprefix("--ignore=") for word in step.command if "tests/" in word or ".py" in word]
            assert [path for path in paths if not (check.ROOT / path).exists()] == []
            assert bool(step.report) == any("{report}" in word for word in step.command)


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA device"):
        check.machine()
