"""The machine a run has, and where its result comes from: machine, software, command, commit."""

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import fastadv


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Run with `count` CPU threads, where it is given."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(*, command: str, device: torch.device | str, threads: int | None) -> dict[str, str]:
    """Return the facts by which to judge or repeat a run, by label. threads: of the CPU; None is torch's choice."""
    facts = {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "Software": f"Python {platform.python_version()}, torch {torch.__version__}",
        "CPU threads": str(threads or torch.get_num_threads()),
        "Command": command,
    }
    if torch.device(device).type == "cuda":
        facts["GPU"] = torch.cuda.get_device_name(device)
    if commit := _commit():
        facts["Commit"] = commit
    return facts


def _cpu_model() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout this package runs from; None where it is installed elsewhere or git is missing."""
    root = Path(fastadv.__path__[0]).resolve().parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + (" with local changes" if status.stdout else "")
