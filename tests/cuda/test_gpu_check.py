"""The call behind ``make gpu-check``, with parts and facts that need no GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nvcc
import pytest
from gpu_check import context, facts, rows, running as running_tools, summary
from gpu_check.__main__ import check
from gpu_check.parts import REPLAYS, all_parts
from gpu_check.running import ROOT, STICKY, Part, Session, Step, chosen

FACTS = {"gpu": "none", "commit": "abc"}
TESTS = """
import pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
@pytest.mark.skip(reason="not here")
def test_absent(): pass
"""
# Ends at no SIGTERM, and neither does what it has started.
HANG = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10**6)"], preexec_fn=lambda: None)
with open(os.environ["FILE"] + ".part", "w") as file:
    file.write(str(child.pid))
os.rename(file.name, os.environ["FILE"])
print("hangs", flush=True)
time.sleep(10**6)
"""
ROW = {
    "seconds": {"fused": {"median": 2e-6}, "eager": {"median": 1e-5}, "replayed": {"median": 1e-6}},
    "floor_seconds": 5e-7,
}


def script(name, code, *, resumes=False, **environment):
    return Step(name, (sys.executable, "-c", code), environment, resumes)


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch):
    """The tests that a check starts are no part of the session that runs these, whose workers are told by these."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


GOOD = Part("good", (script("one", "print('said')"),))
BAD = Part("bad", (script("one", "raise SystemExit(3)"), script("two", "print('ran all the same')")))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_a_failing_part_does_not_keep_the_next_from_running(out, capsys):
    assert check([BAD, GOOD], out, 600) == 1
    assert [(part["part"], part["outcome"]) for part in lines(out / "parts.jsonl")] == [
        ("bad", "failed"),
        ("good", "passed"),
    ]
    assert lines(out / "parts.jsonl")[0]["reasons"] == ["one: exit status 3"]
    log = (out / "log.txt").read_text()
    assert "bad: ran all the same" in log
    assert "good: said" in log
    assert "bad: one: exit status 3" in capsys.readouterr().out.split("reasons")[1]
    assert check([GOOD], out, 600) == 0


def test_where_a_required_part_fails_nothing_follows(out):
    needed = Part("facts", BAD.steps, required=True)
    assert check([needed, GOOD], out, 600) == 1
    assert [part["part"] for part in lines(out / "parts.jsonl")] == ["facts"]


def test_the_time_left_is_shared_out_and_what_one_part_leaves_is_for_the_next(out):
    now = iter([0.0, *[10.0] * 8, *[20.0] * 20])
    session = Session(out, 110, clock=lambda: next(now))
    session.run([Part("a", (script("one", ""),), share=1), Part("b", (script("one", ""),), share=3)])
    begun = [line for line in (out / "log.txt").read_text().splitlines() if "begins" in line]
    assert [line.split("begins, ")[1] for line in begun] == ["25 s", "90 s"]


def test_a_required_part_may_take_all_the_time(out):
    session = Session(out, 110, clock=lambda: 0.0)
    session.run([Part("facts", (script("one", ""),), share=1, required=True), Part("b", (script("two", ""),), share=9)])
    begun = [line for line in (out / "log.txt").read_text().splitlines() if "begins" in line]
    assert [line.split("begins, ")[1] for line in begun] == ["110 s", "110 s"]


def test_rows_but_those_of_training_steps_need_nothing_of_the_trainer():
    code = (
        "import sys; sys.modules |= dict.fromkeys(('pydantic', 'tomlkit'))\n"
        "from benchmarks.cases import ops_and_attacks\n"
        "from gpu_check.rows import CASES, COMPILED, TRITON\n"
        "print(sorted({*CASES, *COMPILED, *TRITON} - {entry.name for entry in ops_and_attacks()}))"
    )
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'csrc' / 'tools'}"}
    said = subprocess.run([sys.executable, "-c", code], env=os.environ | path, cwd=ROOT, capture_output=True, text=True)
    assert said.stdout == "[]\n", said.stderr


def test_on_a_gpu_no_test_builds_the_simulator(tmp_path):
    (tmp_path / "a_gpu.py").write_text("import torch\ntorch.cuda.is_available = lambda: True\n")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "a_gpu", "-p", "no:cacheprovider", "--setup-plan")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'csrc' / 'tools'}"}
    keyword = "test_the_ball_holds and on_gpu_cuda"
    said = subprocess.run(
        (*command, "tests/cuda/test_kernel_paths.py", "-k", keyword),
        env=os.environ | path,
        cwd=ROOT,
        capture_output=True,
    )
    assert b"SETUP    F clusters" in said.stdout, said.stderr
    assert b"simulator" not in said.stdout


def running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ended(process):
    """Give the kernel a moment: the process is no child of ours."""
    for _ in range(200):
        if not running(process):
            return True
        time.sleep(0.05)
    return False


def test_a_part_past_its_limit_ends_with_all_it_has_started(out, tmp_path, monkeypatch):
    monkeypatch.setattr("gpu_check.running.PATIENCE_SECONDS", 0.2)
    started = tmp_path / "pid"
    hang = Part("hang", (script("hang", HANG, FILE=str(started)), script("after", "print('never')")), share=2)
    session = Session(out, 15)
    assert not session.run([hang, Part("next", GOOD.steps, share=1)])
    stopped, following = lines(out / "parts.jsonl")
    assert (stopped["outcome"], stopped["reasons"]) == (
        "stopped",
        ["hang: ended at its limit of 10 s", "after: ended at its limit of 0 s"],
    )
    assert following["outcome"] == "passed"
    assert "never" not in (out / "log.txt").read_text()
    assert ended(int(started.read_text()))


def test_a_step_has_a_patience_of_its_own(out):
    # Told to end it needs a while, which it says when it is over.
    slow = """
import signal, time
def end(*_):
    time.sleep(0.5)
    print("ended by itself", flush=True)
    raise SystemExit
signal.signal(signal.SIGTERM, end)
print("hangs", flush=True)
time.sleep(10**6)
"""
    step = script("slow", slow)
    for patience, found in ((0.1, False), (30.0, True)):
        Session(out, 4).run([Part("part", (dataclasses.replace(step, patience=patience),))])
        log = (out / "log.txt").read_text()
        assert "part: hangs" in log
        assert ("ended by itself" in log) == found


def test_a_step_finds_the_packages_that_its_caller_finds(out, tmp_path, monkeypatch):
    (tmp_path / "carried_along.py").write_text("print('here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert check([Part("part", (script("one", "import carried_along, gpu_check, fastadv"),))], out, 600) == 0
    assert "part: here" in (out / "log.txt").read_text()


def test_told_to_end_twice_it_takes_all_it_has_started_along_and_sums_up(out, tmp_path):
    started = tmp_path / "pid"
    code = f"""
import sys
from pathlib import Path
from gpu_check import running
from gpu_check.__main__ import check
from gpu_check.running import Part, Step
running.PATIENCE_SECONDS = 1.5
hang = Part("hang", (Step("hang", (sys.executable, "-c", {HANG!r}), {{"FILE": {str(started)!r}}}),))
sys.exit(check([hang], Path({str(out)!r}), 600))
"""
    path = {"PYTHONPATH": str(ROOT / "csrc" / "tools")}
    call = subprocess.Popen([sys.executable, "-c", code], env=os.environ | path, stdout=subprocess.PIPE, text=True)
    while not started.exists() and call.poll() is None:
        time.sleep(0.05)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        call.send_signal(number)
        time.sleep(0.3)
    said, _ = call.communicate(timeout=60)
    assert call.returncode == 143
    assert ended(int(started.read_text()))
    assert "hang: hangs" in (out / "log.txt").read_text()
    assert said.rstrip().endswith(f"all of it in {out}")


def test_told_to_end_while_a_step_is_ended_it_takes_that_along(tmp_path):
    started = tmp_path / "pid"
    code = f"""
import os, signal, sys, threading, time
from gpu_check import running
def told():
    while not os.path.exists({str(started)!r}):
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
try:
    with running.stoppable():
        with running._own_group([sys.executable, "-c", {HANG!r}], os.environ, 30.0):
            threading.Thread(target=told).start()
            while not os.path.exists({str(started)!r}):
                time.sleep(0.05)
except running.Stopped:
    print("stopped")
"""
    path = {"PYTHONPATH": str(ROOT / "csrc" / "tools"), "FILE": str(started)}
    call = subprocess.run([sys.executable, "-c", code], env=os.environ | path, capture_output=True, text=True)
    try:
        assert call.stdout == "stopped\n", call.stderr
        assert ended(int(started.read_text()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(started.read_text()), signal.SIGKILL)


def test_what_cannot_be_killed_is_not_waited_for(monkeypatch):
    class Stuck:
        pid, seconds = 10**9, []

        def poll(self):
            return None

        def wait(self, seconds):
            self.seconds.append(seconds)
            raise subprocess.TimeoutExpired("stuck", seconds)

    monkeypatch.setattr("subprocess.Popen", lambda *given, **options: Stuck())
    with running_tools._own_group(["stuck"], {}, 3.0):
        pass
    assert Stuck.seconds == [3.0, running_tools.KILL_SECONDS]


@pytest.mark.parametrize("target", ["gpu-check", "gpu-reproduce"])
def test_a_signal_to_the_shell_of_make_is_one_to_python(target):
    said = subprocess.run(["make", "-n", target, "PYTHON=python"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("exec python -m gpu_")


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"


@pytest.mark.parametrize(
    ("crash", "why"),
    [
        (f"import os; os._exit({STICKY})", "the CUDA context was lost"),
        (CRASH, "ended by a signal, Segmentation fault"),
    ],
)
def test_after_a_crash_a_step_that_resumes_is_begun_again(out, tmp_path, crash, why):
    seen = tmp_path / "seen"
    code = f"import os; os.path.exists({str(seen)!r}) and exit(); open({str(seen)!r}, 'w'); {crash}"
    assert check([Part("rows", (script("rows", code, resumes=True),))], out, 600) == 1
    part = lines(out / "parts.jsonl")[0]
    assert (part["outcome"], part["reasons"]) == ("failed", [f"rows: {why}; the rest in a new process"])
    seen.unlink()
    assert check([Part("tests", (script("tests", code),))], out, 600) == 1
    assert lines(out / "parts.jsonl")[0]["reasons"] == [f"tests: {why}"]


def test_a_step_that_crashes_each_time_is_given_up(out, monkeypatch):
    monkeypatch.setattr("gpu_check.running.MOST_CRASHES", 2)
    assert check([Part("rows", (script("rows", CRASH, resumes=True),))], out, 600) == 1
    assert len(lines(out / "parts.jsonl")[0]["reasons"]) == 3


def test_what_fails_is_tried_again_with_less(out):
    code = "import sys; print(sys.argv[1:]); sys.exit(len(sys.argv) < 3)"
    step = dataclasses.replace(script("train", code), instead=("--no-compile", "--no-capture", "--never"))
    assert check([Part("part", (step,))], out, 600) == 1
    part = lines(out / "parts.jsonl")[0]
    assert (part["outcome"], part["reasons"]) == (
        "failed",
        ["train: exit status 1; again with --no-compile", "train: exit status 1; again with --no-capture"],
    )
    assert "['--no-compile', '--no-capture']" in (out / "log.txt").read_text()


def test_a_step_leaves_the_others_of_its_part_their_share_of_the_time(out, monkeypatch):
    monkeypatch.setattr("gpu_check.running.PATIENCE_SECONDS", 0.2)
    hang = dataclasses.replace(script("hang", "import time; time.sleep(10**6)"), share=0.1)
    left = "import sys, time; print(0 < float(sys.argv[1]) - time.monotonic() < 27.5)"
    rest = Step("rest", (sys.executable, "-c", left, "{deadline}"))
    assert check([Part("part", (hang, rest))], out, 40) == 1
    part = lines(out / "parts.jsonl")[0]
    assert (part["outcome"], part["reasons"]) == ("stopped", ["hang: ended at its limit of 3 s"])
    assert "part: True" in (out / "log.txt").read_text()


def test_a_program_that_is_not_there_is_a_reason_to_skip(out):
    assert check([Part("part", BAD.steps, needs="no-such-program")], out, 600) == 0
    part = lines(out / "parts.jsonl")[0]
    assert (part["outcome"], part["reasons"]) == ("skipped", ["no-such-program is not on the PATH"])


def test_outcomes_of_tests_are_lines_as_they_come(out, tmp_path):
    (tmp_path / "test_three.py").write_text(TESTS)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_check.recorder")
    tests = Step("tests", (*command, str(tmp_path / "test_three.py")), {"GPU_CHECK_STEP": "cases"})
    assert check([Part("ops", (tests,))], out, 600) == 1
    found = lines(out / "tests.jsonl")
    assert [(line["step"], line["test"].split("::")[1], line["outcome"]) for line in found] == [
        ("cases", "test_good", "passed"),
        ("cases", "test_bad", "failed"),
        ("cases", "test_absent", "skipped"),
    ]
    assert found[1]["said"] == "AssertionError: one is not two"
    text = (out / "summary.txt").read_text()
    assert "cases: 1 passed, 1 failed, 1 skipped" in text
    assert "test_bad: AssertionError: one is not two" in text


@pytest.mark.parametrize(
    ("processes", "finalised"), [((), "pass"), ((), "raise RuntimeError('CUDA error')"), (("-n", "1"), "pass")]
)
def test_a_test_that_loses_the_context_ends_its_process_and_is_named(out, tmp_path, processes, finalised):
    (tmp_path / "test_two.py").write_text(f"""
import pytest
@pytest.fixture
def tensors():
    yield
    {finalised}
def test_loses(tensors): pass
def test_after(): pass
""")
    # Without torch, which each process would load for seconds.
    (tmp_path / "losing.py").write_text("""
import sys
from unittest.mock import MagicMock
sys.modules["torch"] = MagicMock()
from gpu_check import recorder
told = ["", "CUDA error: an illegal memory access"]
recorder.lost_context = lambda: told.pop() if told else ""
""")
    plugins = ("-p", "no:cacheprovider", "-p", "gpu_check.recorder", "-p", "losing")
    command = (sys.executable, "-m", "pytest", "-q", *plugins, *processes, str(tmp_path / "test_two.py"))
    path = os.pathsep.join((str(tmp_path), str(ROOT), str(ROOT / "csrc" / "tools")))
    assert check([Part("ops", (Step("tests", command, {"PYTHONPATH": path}),))], out, 600) == 1
    found = {line["test"].split("::")[1]: line for line in summary.collect(out)["tests"]}
    assert (found["test_loses"]["outcome"], found["test_loses"]["said"]) == (
        "failed",
        "ended its process: CUDA error: an illegal memory access",
    )
    # Another worker takes the rest.
    assert found.get("test_after", {}).get("outcome") == (None if not processes else "failed")


def test_no_context_is_lost_where_there_is_none():
    assert context.lost_context() == ""


@pytest.mark.parametrize("current", ["default", "side"])
def test_a_stream_that_is_left_current_is_a_lost_context(monkeypatch, current):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.default_stream", lambda: "default")
    monkeypatch.setattr("torch.cuda.current_stream", lambda: current)
    assert context.lost_context() == {"default": "", "side": "side was left current"}[current]


def test_cases_are_measured_in_order_and_kept_as_they_come(tmp_path):
    path = tmp_path / "rows.jsonl"

    def run(name):
        assert lines(path)[-1] == {"case": name, "state": "begun"}
        if name == "b":
            raise ValueError("results differ")
        return ROW

    assert rows.measure(["a", "b", "c"], path, math.inf, run, lost=lambda: "") == 1
    done = [line for line in lines(path) if line["state"] != "begun"]
    assert [(line["case"], line["state"]) for line in done] == [("a", "measured"), ("b", "failed"), ("c", "measured")]
    assert done[1]["said"] == "ValueError: results differ"


def test_a_case_that_lost_the_context_is_not_measured_again(tmp_path):
    path, asked = tmp_path / "rows.jsonl", []

    def run(name):
        asked.append(name)
        return ROW

    assert rows.measure(["a", "b", "c"], path, math.inf, run, lost=lambda: "lost" if asked[-1] == "b" else "") == STICKY
    assert rows.measure(["a", "b", "c"], path, math.inf, run, lost=lambda: "") == 0
    assert asked == ["a", "b", "c"]
    # One that took its process along had no time to say so.
    with path.open("a") as file:
        file.write(json.dumps({"case": "d", "state": "begun"}) + "\n")
    assert rows.measure(["d"], path, math.inf, run, lost=lambda: "") == 0
    assert lines(path)[-1] == {"case": "d", "state": "failed", "said": "ended its process"}


def test_with_too_little_time_no_case_is_begun(tmp_path, capsys):
    now = iter([0.0, 8.0])
    assert (
        rows.measure(["a", "b", "c"], tmp_path / "rows.jsonl", 10, lambda name: ROW, lambda: "", lambda: next(now)) == 0
    )
    assert "no time for 2 of 3 cases" in capsys.readouterr().out


def run_rows(code):
    return subprocess.run(
        [sys.executable, "-c", f"from gpu_check import rows\n{code}"],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'csrc' / 'tools'}"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_case_that_hangs_ends_its_process_and_says_where():
    # With the interpreter's lock, and no moment for a handler of Python's.
    code = "with rows.limited(0.2): pass\nwith rows.limited(0.2): sum(range(10**9))"
    ended = run_rows(code)
    assert ended.returncode == -signal.SIGALRM, ended.stderr
    assert "line 3 in <module>" in ended.stderr


def test_a_process_without_a_context_ends_without_a_clean_up():
    code = "import atexit, sys\natexit.register(print, 'hangs')\nsys.argv[1:] = ['out', '0']\n"
    for status, said in ((STICKY, "told\n"), (1, "told\nhangs\n")):
        ended = run_rows(f"{code}rows._measure = lambda asked: print('told') or {status}\nrows.main()")
        assert (ended.returncode, ended.stdout) == (status, said), ended.stderr


def test_the_copies_are_measured_once_also_where_that_crashes(tmp_path):
    path, floor = tmp_path / "rows.jsonl", {"copies": []}
    assert rows.floor_of(path, None) is None
    with pytest.raises(SystemExit):
        rows.floor_of(path, lambda: exit())
    assert rows.floor_of(path, lambda: floor) is None
    path.unlink()
    assert rows.floor_of(path, lambda: floor) == rows.floor_of(path, lambda: {}) == floor


def test_what_imports_the_parts_of_a_call_loads_neither_torch_nor_pytest():
    ended = run_rows("import sys, gpu_check.__main__\nprint({'torch', 'pytest'} & sys.modules.keys())")
    assert ended.stdout == "set()\n", ended.stderr


def test_the_named_cases_are_in_the_registry():
    from benchmarks.cases import registry

    known = {entry.name for entry in registry()}
    for names in (rows.CASES, rows.COMPILED, rows.TRITON, rows.TRAINING):
        assert [name for name in names if name not in known] == []
        assert len(set(names)) == len(names)
    assert (len(rows.CASES), len(rows.COMPILED)) == (45, 8)


def a_large_folder(out):
    out.mkdir()
    (out / "facts.json").write_text(json.dumps(FACTS))
    parts = [{"part": f"part{n}", "outcome": "failed", "seconds": 1.0, "reasons": ["why " * 100] * 9} for n in range(8)]
    tests = [{"step": "ops", "test": f"test_{n}", "outcome": "failed", "said": "wrong " * 50} for n in range(500)]
    measured = [{"backend": "cuda", "case": f"case {n}", "state": "measured", "row": ROW} for n in range(300)]
    for name, content in {"parts": parts, "tests": tests, "rows": [{"floor": None}, *measured]}.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))


def test_the_summary_fits_on_a_page_and_says_what_does_not(out):
    a_large_folder(out)
    text = summary.write(out)
    assert len(text) <= 10_000
    assert text.startswith("gpu: none\ncommit: abc\n")
    assert "ops: 500 failed" in text
    assert text.count("more in") == 3
    assert next(line for line in text.splitlines() if line.startswith("case 0")).split()[2:] == [
        "2.0",
        "10.0",
        "-",
        "1.0",
        "0.50",
    ]
    assert len(json.loads((out / "results.json").read_text())["failed_tests"]) == 500


def test_a_row_that_ended_the_last_process_has_failed(out):
    out.mkdir()
    states = [("a", "begun"), ("a", "measured"), ("b", "begun"), ("c", "begun"), ("c", "failed")]
    content = [
        {"backend": "cuda", "compiled": False, "case": case, "state": state, "row": ROW} for case, state in states
    ]
    content[-1]["said"] = "ended its process"
    content.append({**content[0], "compiled": True})
    (out / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    found = [(row["case"], row["compiled"], row["state"]) for row in summary.collect(out)["rows"]]
    assert found == [
        ("a", False, "measured"),
        ("b", False, "failed"),
        ("c", False, "failed"),
        ("a", True, "failed"),
    ]
    assert "b: begun, and neither measured nor told why not" in summary.write(out).split("failures")[1]


def test_what_was_cut_off_is_not_read(out):
    out.mkdir()
    good = '{"step": "ops", "test": "a", "outcome": "passed"}'
    (out / "tests.jsonl").write_text(f'{{"step": "op{good}\n{good}\n{{"step": "op')
    (out / "facts.json").write_text('{"gpu": "no')
    assert [line["test"] for line in summary.collect(out)["tests"]] == ["a"]
    assert summary.page(summary.collect(out)).startswith("no facts")
    path = out / "rows.jsonl"
    path.write_text('{"case": "a", "state": "meas\n')
    assert rows.measure(["a"], path, math.inf, lambda name: ROW, lost=lambda: "") == 0


def test_the_summary_is_there_after_each_part(out, monkeypatch):
    look = Part("look", (script("one", f"print(open({str(out / 'summary.txt')!r}).read())"),))
    assert check([GOOD, look], out, 600) == 0
    assert re.search("look: good +passed", (out / "log.txt").read_text())
    monkeypatch.setattr(summary, "page", lambda results: 1 // 0)
    assert check([GOOD, GOOD], out, 600) == 0


def test_all_results_are_at_most_eight_files_in_one_folder(out):
    a_large_folder(out)
    summary.write(out)
    (out / "log.txt").touch()
    assert len(list(out.iterdir())) <= 8
    assert all(path.is_file() for path in out.iterdir())


def test_parts_are_chosen_by_name_in_their_own_order():
    needed = Part("facts", (), required=True)
    assert chosen("", [needed, GOOD, BAD]) == [needed, GOOD, BAD]
    assert chosen("bad, good", [needed, GOOD, BAD]) == [needed, GOOD, BAD]
    assert chosen("bad", [needed, GOOD, BAD]) == [needed, BAD]
    with pytest.raises(SystemExit, match="there is no part ugly; there are good, bad"):
        chosen("ugly,bad", [GOOD, BAD])


def test_the_parts_fit_and_what_they_name_is_there():
    parts = all_parts()
    assert sum(part.share for part in parts) == 530
    for part in parts:
        for step in part.steps:
            assert [word for word in step.command if word.startswith("tests/") and not (ROOT / word).exists()] == []
            assert step.resumes == ("gpu_check.rows" in step.command and part.name != "alone")


def test_tests_record_as_the_library_does():
    """torch.cuda.graph alone leaves its stream current where ending a capture raises, for all tests after it."""
    assert [path for path in REPLAYS if "torch.cuda.graph(" in (ROOT / path).read_text()] == []


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA device"):
        facts.machine()


def test_libraries_that_do_not_serve_are_built_or_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(facts, "_probe", lambda: "no kernel image is available")
    assert facts.libraries("9.0")["libraries"] == (
        "no library: no kernel image is available, and nvcc is not on the PATH"
    )
    (tmp_path / "fastadv").mkdir()
    (tmp_path / "fastadv" / "_cuda.so").touch()
    monkeypatch.setattr(facts, "_probe", lambda: "")
    # One that serves is not built again for what lies beside it.
    assert facts.libraries("9.0") == {
        "libraries": "built beforehand, _cuda.so of 0 MiB, without _cpu.so, without _build.json",
        "sources": "not known, _build.json does not say",
    }
    monkeypatch.setattr("nvcc.sources_digest", lambda: "now")
    for built, said in (("now", "now, these"), ("then", "then, OTHERS than now here: rebuild the libraries")):
        (tmp_path / "fastadv" / "_build.json").write_text(json.dumps({"cuda": "built", "sources": built}))
        assert facts.libraries("9.0")["sources"] == said


def test_a_library_that_gives_no_answer_does_not_serve(monkeypatch):
    monkeypatch.setattr(facts, "PROBE", "import time; time.sleep(10**6)")
    monkeypatch.setattr(facts, "PROBE_SECONDS", 0.2)
    assert facts._probe() == "no answer in 0 s"
    monkeypatch.setattr(facts, "PROBE_SECONDS", 60.0)
    for program, said in (("", ""), ("raise SystemExit('one\\ntwo')", "two"), ("raise SystemExit(3)", "exit status 3")):
        monkeypatch.setattr(facts, "PROBE", program)
        assert facts._probe() == said


def test_without_a_library_what_is_of_triton_runs(out, monkeypatch):
    monkeypatch.setattr(facts, "machine", lambda: {"gpu": "none", "capability": "9.0"})
    monkeypatch.setattr(facts, "libraries", lambda capability: {"libraries": "no library: no kernel image"})
    monkeypatch.setattr("sys.argv", ["facts", str(out)])
    out.mkdir()
    facts.main()
    write = script("facts", f"open({str(out / 'facts.json')!r}, 'w').write({(out / 'facts.json').read_text()!r})")
    compiled = Part("ops", (script("one", "print('never')"),), compiled=True)
    assert check([Part("facts", (write,), required=True), compiled, Part("triton", GOOD.steps)], out, 600) == 1
    found = {part["part"]: (part["outcome"], part["reasons"]) for part in lines(out / "parts.jsonl")}
    assert found == {
        "facts": ("passed", []),
        "ops": ("failed", ["no library: no kernel image"]),
        "triton": ("passed", []),
    }
    assert "never" not in (out / "log.txt").read_text()
    assert [part.name for part in all_parts() if not part.compiled] == ["facts", "triton"]


def test_programs_of_cuda_are_found_beside_the_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "compute-sanitizer"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    running_tools.find_cuda()
    assert os.environ["PATH"] == f"/nowhere:{tmp_path}/bin:/usr/local/cuda/bin"
    assert shutil.which("compute-sanitizer") == str(program)


def test_the_hash_of_the_sources_is_of_each_of_them(tmp_path, monkeypatch):
    for name in (
        "csrc/common/a.h",
        "csrc/cuda/a.cu",
        "csrc/cpu/ops/a.cpp",
        "csrc/tools/nvcc.py",
        "fastadv/ops/schemas.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr("nvcc.__file__", str(tmp_path / "csrc" / "tools" / "nvcc.py"))
    seen = {nvcc.sources_digest()}
    for name in ("csrc/common/a.h", "csrc/cuda/a.cu", "csrc/cpu/ops/a.cpp", "fastadv/ops/schemas.py"):
        (tmp_path / name).write_text("another")
        seen.add(nvcc.sources_digest())
    (tmp_path / "csrc" / "cuda" / "NOTES.md").write_text("not compiled")
    assert len(seen | {nvcc.sources_digest()}) == 5


def test_tests_have_two_quiet_threads_and_processes_only_where_they_are_several(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    steps = {step.name: step for part in all_parts() for step in part.steps}
    for name, processes in (("ops", "8"), ("graphs", "8"), ("triton", "8"), ("refused", None)):
        environment, command = steps[name].environment, steps[name].command
        assert (environment["OMP_NUM_THREADS"], environment["OMP_WAIT_POLICY"]) == ("2", "passive")
        assert (command[command.index("-n") + 1] if "-n" in command else None) == processes


def test_no_step_takes_all_the_time_of_what_comes_after_it():
    for part in all_parts():
        if part.name in ("triton", "sanitizer"):
            assert [step.share < 1 for step in part.steps] == [True, False]
