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

import nvcc

from gpu_check.lines import object_of
from gpu_check.running import NO_LIBRARY, ROOT, Part, Step

PROBE_SECONDS = 60.0
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
    # Without them Triton serves, and what needs them is left out.
    facts |= libraries(facts["capability"])
    path.write_text(json.dumps(facts, indent=1) + "\n")
    for name, fact in facts.items():
        print(f"{name}: {fact}")


def machine() -> dict[str, Any]:
    """Return what the results depend on. Exits where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run prints what would run")
    properties = torch.cuda.get_device_properties(0)
    compiler = shutil.which("nvcc")
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
        "nvcc": (_said(compiler, "--version").splitlines() or ["unknown"])[-1] if compiler else "none on the PATH",
        "pytest-xdist": _version("xdist"),
        "pytest-timeout": _version("pytest_timeout"),
        "cores": os.cpu_count(),
        "commit": commit(),
    }


def libraries(capability: str) -> dict[str, str]:
    """Return how the compiled libraries came to be; built here for ``capability`` where that of CUDA does not serve."""
    wrong = _probe()
    if not wrong:
        size = (ROOT / "fastadv" / "_cuda.so").stat().st_size
        missing = "".join(f", without {name}" for name in LIBRARIES if not (ROOT / "fastadv" / name).exists())
        return {"libraries": f"built beforehand, _cuda.so of {size / 2**20:.0f} MiB{missing}", "sources": _sources()}
    if shutil.which("nvcc") is None:
        return {"libraries": f"{NO_LIBRARY}: {wrong}, and nvcc is not on the PATH"}
    print(f"building for {capability}: {wrong}", flush=True)
    start = time.monotonic()
    build = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=ROOT,
        env=os.environ | {"USE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": capability},
        check=False,
    )
    still = f"the build ended with {build.returncode}" if build.returncode else _probe()
    if still:
        return {"libraries": f"{NO_LIBRARY}: {still}"}
    return {"libraries": f"built here in {time.monotonic() - start:.0f} s, because {wrong}", "sources": _sources()}


def _probe() -> str:
    """Return what went wrong with an op of the CUDA library, or nothing."""
    path = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    try:
        run = subprocess.run(
            [sys.executable, "-c", PROBE],
            cwd=ROOT,
            env=os.environ | path,
            capture_output=True,
            text=True,
            check=False,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {PROBE_SECONDS:.0f} s"
    return (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1] if run.returncode else ""


def _sources() -> str:
    """Return whether the libraries are of the sources that lie here: of older ones they may load all the same."""
    built, here = object_of(ROOT / "fastadv" / "_build.json").get("sources"), nvcc.sources_digest()
    if built is None:
        return "not known, _build.json does not say"
    return f"{built}, these" if built == here else f"{built}, OTHERS than {here} here: rebuild the libraries"


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
