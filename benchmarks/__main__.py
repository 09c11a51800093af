"""Run the cases: correctness first, then fused, eager and torch.compile side by side; a table and a JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastadv
from benchmarks.cases import Call, Case, cases, with_backward
from benchmarks.measure import (
    Clock,
    ColdClock,
    Spread,
    bandwidth,
    device_clock,
    host_clock,
    interleaved,
    ratio,
    replayed,
)
from fastadv.ops import dispatch

WIDTH = 51


class Differs(Exception):
    """A case's results are not those of its opponent."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--output", type=Path, help="write the results here as JSON (default: only print)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where the cases are computed")
    parser.add_argument("--cold-l2", action="store_true", help="on a GPU, overwrite its L2 cache before every call")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    clock: Clock = host_clock if not on_gpu else ColdClock() if arguments.cold_l2 else device_clock
    machine = describe_machine(arguments.device) | ({"cold_l2": arguments.cold_l2} if on_gpu else {})
    for key, value in machine.items():
        print(f"{key}: {value}")
    calls = overhead(arguments.device)
    variants = ("fused", "eager", "compiled", *(["replayed"] if on_gpu else []))
    columns = "".join(f"{name:>10}" for name in variants) + f"   {'eager / fused':24}{'compiled / fused':24}check"
    print(f"\n{'':{WIDTH}}{columns}")
    rows, wrong = [], []
    for case in cases(arguments.device):
        if arguments.only not in case.name:
            continue
        try:
            rows.append(run(case, clock))
        except (Differs, RuntimeError) as error:
            # The other cases are worth their time all the same.
            print(f"{case.name}: {error}")
            wrong.append(f"{case.name}: {error}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        results = {"machine": machine, "overhead": calls, "rows": rows, "not_timed": wrong}
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        print(f"\nwrote {arguments.output}")
    if wrong:
        raise SystemExit(f"{len(wrong)} cases failed and were not timed")


def run(case: Case, clock: Clock = host_clock) -> dict[str, object]:
    """Check, measure and print one case; on a GPU the fused call also as a CUDA graph."""
    variants = {"fused": case.fused, "eager": case.opponent(case.eager)}
    # A graph a case: shapes compiled for one must not become dynamic for the next.
    torch._dynamo.reset()
    variants["compiled"] = case.opponent(torch.compile(case.eager))
    if clock is not host_clock:
        variants["replayed"] = replayed(case.fused)
    error = max(largest_difference(case.fused(), other()) for name, other in variants.items() if name != "fused")
    if not error <= case.atol:
        raise Differs(f"results differ by {error:.2e}, more than {case.atol:.0e}; nothing was timed")
    seconds = interleaved(variants, clock)
    times = {name: Spread.of(values) for name, values in seconds.items()}
    ratios = {name: ratio(seconds[name], seconds["fused"]) for name in ("eager", "compiled")}
    print(
        f"{case.name:{WIDTH}}"
        + "".join(f"{times[name].median * 1e6:8.1f}us" for name in variants)
        + "".join(f"   {r.median:6.2f} ({r.low:5.2f} - {r.high:6.2f})" for r in ratios.values())
        + f"   |diff| {error:.0e}"
    )
    return {
        "case": case.name,
        "largest_difference": error,
        "bytes": case.bytes,
        "bytes_formula": case.formula,
        "bytes_per_second": {
            name: case.bytes / times[name].median for name in variants if name in ("fused", "replayed")
        },
        "seconds": {name: asdict(spread) for name, spread in times.items()},
        "ratio_to_fused": {name: asdict(spread) for name, spread in ratios.items()},
    }


def overhead(device: str) -> dict[str, object]:
    """What a call costs the host on the smallest problem, where only the way to the kernel counts."""
    x, logits, zero = (torch.ones(size, device=device) for size in ((1, 4), (1, 2), (1,)))
    student = logits.clone().requires_grad_()
    # Each with what it is measured against.
    calls: dict[str, tuple[Call, str | None]] = {
        "torch.neg": (lambda: torch.neg(zero), None),
        "pgd_step": (lambda: fastadv.pgd_step(x, x, x, eps=0.1, step_size=0.1), "torch.neg"),
        "kl_distill": (lambda: fastadv.kl_distill(logits, logits), "torch.neg"),
        "autograd.Function, forward + backward": (lambda: with_backward(_Nothing.apply(student), student), None),
        "kl_distill, forward + backward": (
            lambda: with_backward(fastadv.kl_distill(student, logits), student),
            "autograd.Function, forward + backward",
        ),
    }
    seconds = interleaved({name: call for name, (call, _) in calls.items()})
    rows: dict[str, object] = {}
    print("\ncalls on the smallest problem")
    for name, (_, beside) in calls.items():
        time = Spread.of(seconds[name])
        beyond = ratio(seconds[name], seconds[beside]) if beside else None
        against = f"   {beyond.median:5.2f} x {beside} ({beyond.low:.2f} - {beyond.high:.2f})" if beyond else ""
        print(f"{name:40}{time.median * 1e6:8.2f}us{against}")
        rows[name] = {"seconds": asdict(time), "beside": beside, "ratio": beyond and asdict(beyond)}
    return rows


class _Nothing(torch.autograd.Function):
    """Saves one tensor, returns a number, and hands back what it saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.new_empty(())

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (saved,) = ctx.saved_tensors
        return saved


def largest_difference(a: object, b: object) -> float:
    """Largest difference of two results, relative to the largest magnitude in ``b`` where that is above 1.

    Infinite where one is NaN and the other is not.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:
            return float("inf")
        if not a.numel():
            return 0.0
        difference = (a.detach().double() - b.detach().double()).abs()
        scale = max(1.0, float(b.detach().abs().max()))
        return float(torch.nan_to_num(difference, nan=float("inf")).max()) / scale
    assert isinstance(a, tuple)
    assert isinstance(b, tuple)
    return max(largest_difference(x, y) for x, y in zip(a, b, strict=True))


def describe_machine(device: str) -> dict[str, object]:
    """What the numbers depend on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    gpu = {"copy_bytes_per_second": bandwidth()} if device == "cuda" else {}
    return {
        "cpu": cpu_name(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastadv": f"{fastadv.__version__} ({commit.stdout.strip() or 'no commit'})",
        "served_by": dispatch.serving(device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none: not run on a GPU",
        **gpu,
    }


def cpu_name() -> str:
    """The processor's name as Linux gives it, else Python's."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
