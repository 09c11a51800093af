"""Writes facts.json: the machine, the versions, and where the compiled libraries come from. ``facts.py OUT``."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gpu_check.running import ROOT, Part, Step

PART = Part("facts", (Step("facts", (sys.executable, "-m", "gpu_check.facts", "{out}")),), share=15, required=True)
LIBRARIES = ("_cuda.so", "_cpu.so", "_build.json")
# A library that loads may still have no code for this GPU.
PROBE = """
import torch, fastadv
x = torch.ones(2, 64, device="cuda")
with fastadv.use_backend("cuda"):
    fastadv.pgd_step(x, x, x, eps=0.1, step_size=0.1)
torch.cuda.synchronize()
"""


def main() -> None:
    out = Path(sys.argv[1])
    facts = machine()
    path = out / "facts.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    facts |= libraries(facts["capability"])
    path.write_text(json.dumps(facts, indent=1) + "\n")
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    if "no library" in facts["libraries"]:
        raise SystemExit(facts["libraries"])


def machine() -> dict[str, Any]:
    """Return what the results depend on. Exits where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run prints what would run")
    properties = torch.cuda.get_device_properties(0)
    nvcc = shutil.which("nvcc")
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown",
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "nvcc": (_said(nvcc, "--version").splitlines() or ["unknown"])[-1] if nvcc else "none on the PATH",
        "pytest-xdist": _version("xdist"),
        "pytest-timeout": _version("pytest_timeout"),
        "cores": os.cpu_count(),
        "commit": commit(),
    }


def libraries(capability: str) -> dict[str, str]:
    """Return how the compiled libraries came to be; built here for ``capability`` where those there do not serve."""
    missing = [name for name in LIBRARIES if not (ROOT / "fastadv" / name).exists()]
    said = f"{', '.join(missing)} missing" if missing else _probe()
    if not said:
        size = (ROOT / "fastadv" / "_cuda.so").stat().st_size
        return {"libraries": f"built beforehand, _cuda.so of {size / 2**20:.0f} MiB"}
    if shutil.which("nvcc") is None:
        return {"libraries": f"no library: {said}, and nvcc is not on the PATH"}
    print(f"building for {capability}: {said}", flush=True)
    start = time.monotonic()
    build = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=ROOT,
        env=os.environ | {"USE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability},
        check=False,
    )
    wrong = f"the build ended with {build.returncode}" if build.returncode else _probe()
    if wrong:
        return {"libraries": f"no library: {wrong}"}
    return {"libraries": f"built here in {time.monotonic() - start:.0f} s, because {said}"}


def _probe() -> str:
    """Return what went wrong with an op of the CUDA library, or nothing."""
    path = {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=False
    )
    return (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1] if run.returncode else ""


def commit() -> str:
    """Return the commit of the checkout, or where it is no checkout what the environment variable COMMIT says."""
    head = _said("git", "rev-parse", "HEAD")
    if not head:
        return os.environ.get("COMMIT") or "unknown"
    return head + (" with local changes" if _said("git", "status", "--porcelain", "--untracked-files=no") else "")


def _version(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        return "none"
    return getattr(__import__(module), "__version__", "there")


def _said(*command: str) -> str:
    try:
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return finished.stdout.strip()


if __name__ == "__main__":
    main()
