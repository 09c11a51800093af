"""What a machine with an NVIDIA GPU says about fastadv, part by part, in one file of results: ``make gpu-check``.

Nothing is installed and no network is needed: the Python that runs this has PyTorch for CUDA, Triton, pytest,
hypothesis, numpy and setuptools (with pytest-xdist the tests run in several processes), and nvcc is on the PATH. A part
that fails does not keep the next from running; the exit status is 1 if any did. The results of the parts that are not
chosen stay in the file if they are of the same machine and commit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
# What is made on the way. Triton's and the compiler's caches stay: compiling takes longer than the tests themselves.
FOLDER = ROOT / "build" / "gpu-check"
FAILURES_KEPT = 60


@dataclass(frozen=True)
class Step:
    """One command; where it names ``{report}``, it leaves one there: of pytest (.xml) or of the benchmark (.json)."""

    name: str
    command: tuple[str, ...]
    report: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Steps that all run. ``needs``: a program without which the part is skipped."""

    name: str
    steps: tuple[Step, ...]
    needs: str = ""


@dataclass
class Outcome:
    """What became of a part: "passed", "failed" or "skipped", and why."""

    outcome: str
    finished: str = ""
    seconds: float = 0.0
    tests: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    benchmarks: dict[str, Any] = field(default_factory=dict)


def parts() -> list[Part]:
    """All of them, in the order in which they run."""
    edges = "tests/cuda/test_kernel_paths.py"
    replays = ("tests/ops/test_replay.py", "tests/attacks/test_capture.py", "tests/attacks/test_host_reads.py")
    # Without PyTorch's cache of memory every tensor is an allocation, past whose end nothing may be read.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    watched = ("--error-exitcode", "9", sys.executable, "tests/cuda/few_cases.py")
    # PyTorch asks the driver for what it may not have; what our own calls return, they check.
    tools = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
    benchmark = (sys.executable, "-m", "benchmarks", "--device", "cuda", "--output", "{report}")
    build = {"USE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST") or "native"}
    load = (sys.executable, "-c", "import fastadv\nwith fastadv.use_backend('cuda'): pass")
    return [
        Part(
            "build",
            (
                Step("build", (sys.executable, "setup.py", "build_ext", "--inplace"), environment=build),
                Step("load", load),
            ),
        ),
        Part("ops", (_tests("cases", "cuda", "tests/ops"), _tests("edges", "on_gpu_cuda", edges))),
        Part("triton", (_tests("cases", "triton", "tests/ops"), _tests("edges", "on_gpu_triton", edges))),
        Part("graphs", (_tests("replays", "", *replays),)),
        Part(
            "sanitizer",
            tuple(
                Step(tool, ("compute-sanitizer", "--tool", tool, *options, *watched), environment=alone)
                for tool, options in tools.items()
            ),
            needs="compute-sanitizer",
        ),
        Part(
            "benchmarks",
            (
                Step("cuda", benchmark, "cuda.json"),
                Step("triton", benchmark, "triton.json", {"FASTADV_BACKEND": "triton"}),
            ),
        ),
    ]


def _tests(name: str, keyword: str, *paths: str) -> Step:
    """The tests of ``paths``, or those with ``keyword`` in their name; the replays are a part of their own."""
    command = [sys.executable, "-m", "pytest", "-q", *paths, "--junitxml={report}"]
    if keyword:
        command += ["-k", keyword, "--ignore=tests/ops/test_replay.py"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(os.cpu_count() or 1, 8))]
    return Step(name, tuple(command), f"{name}.xml")


def run(part: Part, folder: Path, limit: float | None = None) -> Outcome:
    """Run the steps of a part, each ended after ``limit`` seconds; what they print is seen at once."""
    if part.needs and shutil.which(part.needs) is None:
        return Outcome("skipped", _now(), failures=[f"{part.needs} is not on the PATH"])
    result, start = Outcome("passed", tests=dict.fromkeys(("passed", "failed", "skipped"), 0)), time.monotonic()
    for step in part.steps:
        report = folder / f"{part.name}-{step.report}" if step.report else None
        wrong = _run(step, report, folder, limit)
        if report is None or not report.exists():
            wrong = wrong or ("left no report" if report else "")
        elif report.suffix == ".xml":
            wrong = _read_tests(report, result) or wrong
        else:
            result.benchmarks[step.name] = measured = json.loads(report.read_text())
            result.failures += measured["not_timed"]
        if wrong:
            result.outcome = "failed"
            result.failures.append(f"{step.name}: {wrong}")
    result.finished, result.seconds = _now(), round(time.monotonic() - start, 1)
    return result


def _run(step: Step, report: Path | None, folder: Path, limit: float | None) -> str:
    """Run one step; what went wrong, or nothing."""
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
    caches = {"TRITON_CACHE_DIR": str(folder / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    # A session of its own, so that what it has started in turn ends with it.
    process = subprocess.Popen(
        _command(step, report),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | caches | dict(step.environment),
        start_new_session=True,
    )
    try:
        status = process.wait(limit)
    except BaseException as stopped:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(stopped, subprocess.TimeoutExpired):
            raise
        return f"ended after {limit:.0f} seconds"
    return f"exit status {status}" if status else ""


def _command(step: Step, report: Path | None) -> list[str]:
    return [word.replace("{report}", str(report)) for word in step.command]


def _read_tests(report: Path, result: Outcome) -> str:
    """Add up pytest's report; what is wrong with a run in which nothing was tested."""
    passed = 0
    for test in ElementTree.parse(report).iter("testcase"):
        bad = [*test.iter("failure"), *test.iter("error")]
        kind = "failed" if bad else "skipped" if test.find("skipped") is not None else "passed"
        result.tests[kind] += 1
        passed += kind == "passed"
        if bad and len(result.failures) < FAILURES_KEPT:
            said = (bad[0].get("message") or "").splitlines() or [""]
            result.failures.append(f"{test.get('classname')}::{test.get('name')}: {said[0][:200]}")
    return "" if passed else "no test passed"


def machine() -> dict[str, str]:
    """What the results depend on."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run prints what would run")
    triton = importlib.util.find_spec("triton") and __import__("triton").__version__
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown",
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton or "none",
        "commit": commit(),
    }


def commit() -> str:
    """Of the checkout, or where it is no checkout what the environment variable COMMIT says."""
    head = _said("git", "rev-parse", "HEAD")
    if not head:
        return os.environ.get("COMMIT") or "unknown"
    return head + (" with local changes" if _said("git", "status", "--porcelain", "--untracked-files=no") else "")


def _said(*command: str) -> str:
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return finished.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def earlier(path: Path, facts: Mapping[str, str]) -> dict[str, Any]:
    """The parts that ``path`` has of the same machine and commit."""
    known = json.loads(path.read_text()) if path.exists() else {}
    return known.get("parts", {}) if known.get("machine") == facts else {}


def write(path: Path, facts: Mapping[str, str], outcomes: Mapping[str, Any]) -> str:
    """Keep the results as JSON, and beside it as the text that is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": facts, "parts": outcomes}, indent=1) + "\n")
    text = summary(facts, outcomes)
    path.with_suffix(".txt").write_text(text)
    return text


def summary(facts: Mapping[str, str], outcomes: Mapping[str, Any]) -> str:
    """The results in a page: the machine, the parts, what failed, the benchmark's medians."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines.append("")
    for name, part in outcomes.items():
        tests = ", ".join(f"{count} {kind}" for kind, count in part["tests"].items() if count)
        lines.append(f"{name:12}{part['outcome']:9}{part['seconds']:8.1f} s  {part['finished']}  {tests}".rstrip())
        lines += [f"    {failure}" for failure in part["failures"]]
    for part in outcomes.values():
        for backend, measured in part["benchmarks"].items():
            lines += ["", *_table(backend, measured)]
    return "\n".join(lines) + "\n"


def _table(backend: str, measured: Mapping[str, Any]) -> list[str]:
    """Medians; the share is what replays move of what a copy moves in the same time."""
    copied = measured["machine"].get("copy_bytes_per_second")
    names = ("fused", "eager", "compiled", "replayed")
    lines = [f"{backend}, microseconds{'':41}" + "".join(f"{name:>10}" for name in names) + "  share of bandwidth"]
    for row in measured["rows"]:
        times = "".join(f"{row['seconds'][name]['median'] * 1e6:10.1f}" for name in names if name in row["seconds"])
        moved = row["bytes_per_second"].get("replayed")
        lines.append(f"{row['case']:60}{times}" + (f"{moved / copied:12.2f}" if moved and copied else ""))
    return lines


def chosen(names: str, among: Sequence[Part]) -> list[Part]:
    """The parts that ``names``, separated by commas, choose; all for none."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [part.name for part in among]
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"there is no part {', '.join(unknown)}; there are {', '.join(known)}")
    return [part for part in among if not wanted or part.name in wanted]


def check(selected: Sequence[Part], facts: Mapping[str, str], path: Path, folder: Path, limit: float | None) -> bool:
    """Run the parts, keeping the results after each; whether none has failed."""
    outcomes, failed = earlier(path, facts), False
    for part in selected:
        print(f"\n== {part.name}", flush=True)
        outcome = run(part, folder, limit)
        failed |= outcome.outcome == "failed"
        outcomes[part.name] = asdict(outcome)
        text = write(path, facts, outcomes)
    print(f"\n{text}\nwrote {path}")
    return not failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(part.name for part in parts())
    parser.add_argument("--parts", default=os.environ.get("PARTS", ""), help=f"some of {names}; PARTS does the same")
    parser.add_argument("--output", type=Path, help="the file of results (default: benchmarks/results/GPU-check.json)")
    parser.add_argument("--limit", type=float, help="end a step of a part after so many seconds")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")
    arguments = parser.parse_args()
    selected = chosen(arguments.parts, parts())
    if arguments.dry_run:
        for part in selected:
            for step in part.steps:
                variables = [f"{name}={value}" for name, value in step.environment.items()]
                report = FOLDER / f"{part.name}-{step.report}"
                print(f"{part.name}: {' '.join((*variables, shlex.join(_command(step, report))))}")
        return
    facts = machine()
    gpu = facts["gpu"].lower().replace(" ", "-")
    path = arguments.output or ROOT / "benchmarks" / "results" / f"{gpu}-check.json"
    raise SystemExit(0 if check(selected, facts, path, FOLDER, arguments.limit) else 1)


if __name__ == "__main__":
    main()
