"""The parts of the call, in the order in which they run, and the seconds of 540 that each is meant to take."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

from gpu_check import facts, rows
from gpu_check.running import Part, Step

WORKERS = 8
TEST_SECONDS = 30
CASES = ("tests/cuda/test_kernel_paths.py", "tests/cuda/test_cuda_cases.py")
# float32 and bfloat16; the tensors of the first file are aligned for 16-byte accesses, those of the second are not.
PRECISIONS = "not torch.float64 and not torch.float16"
REPLAYS = ("tests/ops/test_replay.py", "tests/attacks/test_capture.py", "tests/attacks/test_host_reads.py")
# What a failed capture leaves behind ends with its process.
REFUSED = "tests/attacks/test_capture.py"
# The kernels that pass numbers through shared memory between warps.
RACES = "svgd_step,rkd_loss,kl_distill,pgd_step"


def all_parts() -> list[Part]:
    """Return all parts; their shares add up to the 540 seconds of the whole call, less what the summary takes."""
    python = (sys.executable, "-m")
    measure = (*python, "gpu_check.rows", "{out}", "{deadline}")
    # Without PyTorch's cache of memory every tensor is an allocation, past whose end nothing may be read.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        facts.PART,
        Part("ops", (_tests("ops", f"on_gpu_cuda and {PRECISIONS}", *CASES),), share=75, compiled=True),
        Part("graphs", (_tests("graphs", "not triton and not refuses", *REPLAYS),), share=40, compiled=True),
        Part("benchmarks", (Step("rows", (*measure, "--floor"), resumes=True),), share=225, compiled=True),
        Part(
            "triton",
            (
                # The rows are few, the tests many.
                Step("rows", (*measure, *rows.TRITON), {"FASTADV_BACKEND": "triton"}, resumes=True, share=0.5),
                _tests("triton", "on_gpu_triton and not torch.float64 and not float16 and not 8200", CASES[0]),
            ),
            share=70,
        ),
        Part(
            "sanitizer",
            (
                # PyTorch asks the driver for what it may not have; what our own calls return, they check.
                Step("memcheck", _watched("memcheck", "--report-api-errors", "no"), alone, share=0.6),
                Step("racecheck", _watched("racecheck", ops=RACES), alone),
            ),
            share=65,
            needs="compute-sanitizer",
            compiled=True,
        ),
        Part(
            "compiled",
            (Step("rows", (*measure, "--compiled", *rows.COMPILED), resumes=True),),
            share=25,
            compiled=True,
        ),
        Part(
            "alone",
            (
                _tests("refused", "refuses or graphs_on_a_device", REFUSED, workers=1),
                *(Step(case.split(",")[0], (*measure, case)) for case in rows.TRAINING),
            ),
            share=15,
            compiled=True,
        ),
    ]


def _tests(name: str, keyword: str, *paths: str, workers: int = WORKERS) -> Step:
    """The tests of ``paths`` with ``keyword``, in the order of the paths, in several processes where xdist is there."""
    workers = min(os.cpu_count() or 1, workers)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "gpu_check.recorder", "-p", "no:cacheprovider", "--tb=short"]
    if workers > 1 and importlib.util.find_spec("xdist"):
        command += ["-n", str(workers)]
    if importlib.util.find_spec("pytest_timeout"):
        command += [f"--timeout={TEST_SECONDS}", "--timeout-method=thread"]
    environment = {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "GPU_CHECK_STEP": name,
        # What tests/conftest.py sets too late for a plugin that has loaded torch.
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
    }
    return Step(name, (*command, *paths, "-k", keyword), environment)


def _watched(tool: str, *options: str, ops: str = "") -> tuple[str, ...]:
    """A tool of compute-sanitizer on cases of few elements; it watches our kernels alone."""
    command = (sys.executable, "-m", "tests.cuda.few_cases", *((f"--ops={ops}",) if ops else ()))
    return ("compute-sanitizer", "--tool", tool, *_our_kernels(), "--error-exitcode", "9", *options, *command)


def _our_kernels() -> tuple[str, ...]:
    """The option that chooses kernels by a part of their name, which has changed its own from release to release."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return ()
    known = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    option = next((name for name in ("--kernel-name", "--kernel-regex", "--filter") if name in known), None)
    return (option, "kns=fastadv") if option else ()
