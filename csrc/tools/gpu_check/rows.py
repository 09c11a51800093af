"""Measures benchmark cases in the order given, a line of rows.jsonl as each is done: ``rows.py OUT DEADLINE CASE...``.

A case whose line is there already is not measured again: after one that lost the CUDA context of its process, crashed
or took too long, the rest goes on in a process of its own. ``--floor`` measures the copies first, ``--compiled`` adds
torch.compile. DEADLINE is of time.monotonic().
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_check.context import lost_context
from gpu_check.lines import append, lines_of
from gpu_check.running import STICKY

# In order of value: what an attack's loop calls, at the sizes that fill a GPU; then what distillation adds; then CIFAR
# sizes, where launches are what counts.
CASES = (
    "pgd_step linf 4096x3x32x32",
    "pgd_step l2 16x3x224x224",
    "pgd_step l2 4096x3x32x32",
    "kl_distill 16384x1000 value and gradient",
    "kl_distill 512x128000 value and gradient",
    "svgd_step 1024x4x3072",
    "attack_loss ce 1024x1000 value and gradient",
    "pgd_step l1 exact 4096x3x32x32",
    "attack pgd linf, 10 steps on a small network, 256x3x32x32",
    "svgd_step 16x32x3072",
    "kl_distill 64x32000 value and gradient",
    "kd_loss 16384x1000 forward + backward",
    "pgd_step linf 128x3x32x32",
    "kl_distill 64x100 value and gradient",
    "mix 4096x3x32x32",
    "momentum_step linf 4096x3x32x32",
    "project l2 4096x3x32x32",
    "random_start linf 4096x3x32x32",
    "bss_step 4096x3x32x32",
    "pgd_step linf 64x3x224x224",
    "pgd_step l1 exact 16x3x224x224",
    "js_distill 16384x1000 value and gradient",
    "dkd_loss 16384x1000 value and gradient",
    "igdm_loss 16384x1000 value and gradient",
    "loss_matching 16384x1000 value and gradient",
    "triplet_margin_loss 16384x512 value and gradients",
    "activation_boundary 256x64x32x32 value and grad",
    "rkd_loss 128x512 forward + backward",
    "kd_loss 512x128000 value and gradient",
    "attack svgd, 10 steps on a small network, 256x3x32x32",
    "attack apgd, 10 steps on a small network, 256x3x32x32",
    "pgd_step linf 1024x3x32x32 bfloat16",
    "pgd_step l2 1024x3x32x32 bfloat16",
    "kl_distill 1024x1000 bfloat16 forward + backward",
    "svgd_step 128x4x3072",
    "svgd_step 8x4x150528",
    "pgd_step l2 128x3x32x32",
    "pgd_step l1 exact 128x3x32x32",
    "attack_loss dlr 1024x1000 value and gradient",
    "attack_loss targeted dlr 64x32000 value and gradient",
    "kl_distill 64x100 forward + backward",
    "mix 128x3x32x32",
    "attack mi_fgsm, 10 steps on a small network, 256x3x32x32",
    "attack pgd l2, 10 steps on a small network, 256x3x32x32",
    "attack vat, 1 step on a small network, 256x3x32x32",
)
COMPILED = (
    "pgd_step linf 4096x3x32x32",
    "pgd_step l2 4096x3x32x32",
    "pgd_step l2 16x3x224x224",
    "kl_distill 16384x1000 value and gradient",
    "kl_distill 512x128000 value and gradient",
    "kd_loss 16384x1000 value and gradient",
    "attack_loss ce 1024x1000 value and gradient",
    "triplet_margin_loss 16384x512 value and gradients",
)
TRITON = (
    "pgd_step linf 4096x3x32x32",
    "pgd_step l2 4096x3x32x32",
    "kl_distill 16384x1000 value and gradient",
    "kl_distill 64x32000 value and gradient",
    "svgd_step 1024x4x3072",
)
TRAINING = tuple(
    f"training step {method}, resnet14 to resnet8, 16x3x32x32" for method in ("kd", "tald", "rslad", "rkd")
)
# A case is not begun with less time than this.
LEAST_SECONDS = 3.0
# A case that takes longer hangs, and its process is ended.
MOST_SECONDS = 25.0


def measure(
    names: Sequence[str],
    path: Path,
    deadline: float,
    run: Callable[[str], Mapping[str, Any]],
    lost: Callable[[], str] = lost_context,
    clock: Callable[[], float] = time.monotonic,
    labels: Mapping[str, Any] | None = None,
) -> int:
    """Measure the named cases until ``deadline``; 1 where one failed, STICKY where the context was lost."""
    labels, status = dict(labels or {}), 0

    def write(case: str, state: str, **more: Any) -> None:
        append(path, labels | {"case": case, "state": state} | more)

    known = _states(path, labels)
    for name in names:
        if known.get(name) == "begun":
            write(name, "failed", said="ended its process")
    for index, name in enumerate(names):
        if name in known:
            continue
        if deadline - clock() < LEAST_SECONDS:
            print(f"no time for {len(names) - index} of {len(names)} cases", flush=True)
            break
        write(name, "begun")
        try:
            row = run(name)
        except Exception as error:
            status = 1
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            write(name, "failed", said=said)
            print(f"{name}: {said}", flush=True)
        else:
            write(name, "measured", row=row)
            print(_told(name, row), flush=True)
        if said := lost():
            print(f"{name}: {said}", flush=True)
            return STICKY
    return status


def _states(path: Path, labels: Mapping[str, Any]) -> dict[str, str]:
    """The last state of each case among the lines with these labels."""
    lines = (line for line in lines_of(path) if "case" in line)
    return {line["case"]: line["state"] for line in lines if line.items() >= labels.items()}


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End the process where what is inside takes longer, a second after it was printed where each thread is.

    By a signal's own effect: a handler of Python's would wait for what hangs in a kernel.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.dump_traceback_later(seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        faulthandler.cancel_dump_traceback_later()


def floor_of(path: Path, measured: Callable[[], Mapping[str, Any]] | None) -> Mapping[str, Any] | None:
    """Return the copies that are in the file, else what ``measured`` gives, which is asked once: it may crash."""
    floors = [line["floor"] for line in lines_of(path) if "floor" in line]
    if floors or measured is None:
        return floors[-1] if floors else None
    append(path, {"floor": None})
    floor = measured()
    append(path, {"floor": floor})
    return floor


def _told(name: str, row: Mapping[str, Any]) -> str:
    times = ", ".join(f"{what} {spread['median'] * 1e6:.1f} us" for what, spread in row["seconds"].items())
    return f"{name}: {times}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("deadline", type=float)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    status = _measure(parser.parse_args())
    if status == STICKY:
        # No clean-up would come to an end.
        sys.stdout.flush()
        os._exit(status)
    raise SystemExit(status)


def _measure(asked: argparse.Namespace) -> int:
    import torch

    from benchmarks.cases import ops_and_attacks, registry
    from benchmarks.suite.floor import Floor
    from benchmarks.suite.measure import Effort, warm_clock
    from benchmarks.suite.runner import Conditions, run

    device, effort, path = torch.device("cuda"), Effort(budget_seconds=0.6), asked.out / "rows.jsonl"
    # The profiler stays with its process, and slows what comes after.
    conditions = Conditions(device, warm_clock(device), None, effort, profiled=False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def copies() -> Mapping[str, Any]:
        with limited(MOST_SECONDS):
            return Floor.measure(device, Effort(budget_seconds=0.2)).as_json()

    written = floor_of(path, copies if asked.floor else None)
    floor = None if written is None else Floor.from_json(written)
    if floor is not None:
        print(f"a copy moves {floor.bandwidth / 1e9:.0f} GB/s", flush=True)
    # Steps of the trainer alone need its packages, which the machine may lack.
    known = registry() if set(asked.cases) & set(TRAINING) else ops_and_attacks()
    entries = {entry.name: entry for entry in known}

    def run_case(name: str) -> Mapping[str, Any]:
        with limited(MOST_SECONDS):
            return run(dataclasses.replace(entries[name], compiled=asked.compiled), conditions, floor)

    labels = {"backend": os.environ.get("FASTADV_BACKEND") or "cuda", "compiled": asked.compiled}
    return measure(asked.cases, path, asked.deadline, run_case, labels=labels)


if __name__ == "__main__":
    main()
