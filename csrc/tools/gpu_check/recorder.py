"""A pytest plugin: every outcome is a line of tests.jsonl as it comes, and a lost CUDA context ends its process.

An error such as an illegal access stays with the process that caused it: every later test would fail for it. The
process ends after the test that caused it, which pytest-xdist reports as the one that crashed its worker.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from gpu_check.context import lost_context
from gpu_check.lines import append
from gpu_check.running import STICKY

_IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_OUT = Path(os.environ.get("GPU_CHECK_OUT", "."))
_STEP = os.environ.get("GPU_CHECK_STEP", "")


def pytest_configure() -> None:
    import torch  # after the tests' conftest has said with how many threads

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not _IN_WORKER and (report.when == "call" or report.outcome != "passed"):
        said = "" if report.outcome == "passed" else _last_line(report)
        write(report.nodeid, report.outcome, said)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    try:
        return (yield)
    finally:
        # Also where a finaliser raises, as it may for that very reason.
        if lost := lost_context():
            write(item.nodeid, "failed", f"ended its process: {lost}")
            # No clean-up would come to an end.
            os._exit(STICKY)


def write(test: str, outcome: str, said: str) -> None:
    append(_OUT / "tests.jsonl", {"step": _STEP, "test": test, "outcome": outcome} | ({"said": said} if said else {}))


def _last_line(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[-1])
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash else str(report.longrepr)).strip().splitlines()[0][:200]
