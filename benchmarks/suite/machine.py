"""The machine and software that the numbers depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import fastadv
from benchmarks.suite.measure import last_cache
from fastadv.ops import dispatch

PEERS = ("torchattacks", "adv-lib", "foolbox", "pytorch-metric-learning", "liger-kernel", "triton", "numpy")


def describe(device: torch.device) -> dict[str, object]:
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    return {
        "cpu": cpu_name(),
        "gpu": gpu or "none: not run on a GPU",
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "last_cache_bytes": last_cache(device),
        "clock": clock_notes(),
        "load_before": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "others": {name: version for name in PEERS if (version := installed(name))},
        "fastadv": f"{fastadv.__version__} ({commit()})",
        "served_by": dispatch.serving(device.type),
    }


def slug(device: torch.device) -> str:
    """The name of this machine's and this version's results: one file each.

    A CPU's has its vector instructions: virtual machines give the same name to processors with and without AVX-512.
    """
    cpu = f"{cpu_name()} {os.cpu_count()} cores {torch.backends.cpu.get_cpu_capability()}"
    name = torch.cuda.get_device_name() if device.type == "cuda" else cpu
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + f"-{fastadv.__version__}"


def cpu_name() -> str:
    """The processor's name as Linux gives it, else Python's."""
    return _of_processor("model name") or platform.processor() or platform.machine()


def clock_notes() -> str:
    """The clock that times the calls, and what is known of the processor's own."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    resolution = time.get_clock_info("perf_counter").resolution
    policy = f"governor {governor.read_text().strip()}" if governor.exists() else "governor unknown"
    return f"perf_counter, resolution {resolution * 1e9:.0f} ns; {_of_processor('cpu MHz') or '?'} MHz, {policy}"


def installed(package: str) -> str:
    """The version of a package, empty where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def commit() -> str:
    """Of the checkout."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", "fastadv", "kernels", "csrc", "benchmarks/*.py"
    )
    return (head + (" with local changes" if changed else "")) if head else "no commit"


def _git(*arguments: str) -> str:
    folder = Path(__file__).parents[2]
    try:
        said = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return said.stdout.strip()


def _of_processor(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = [line for line in info.read_text().splitlines() if line.startswith(key)] if info.exists() else []
    return lines[0].split(":", 1)[1].strip() if lines else ""
