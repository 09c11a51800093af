"""Time and memory of calls.

Timing is interleaved: every round times each variant once, so that ratios can be taken within a round.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.suite.case import Call
from fastadv.attacks.captured import recording


@dataclass(frozen=True)
class Effort:
    """Effort that a case is measured with: rounds are fewer where they would take more than ``budget_seconds`` in all.

    Not fewer than ``fewest_rounds``: of seven rounds, the bootstrap interval of a median that is meant to hold it in
    95 % of all runs does so in 86 %; of fifteen in 92 %.
    """

    rounds: int = 41
    fewest_rounds: int = 15
    round_seconds: float = 0.004
    warm_up_seconds: float = 0.03
    budget_seconds: float = 2.0


# After the caches have been emptied every call is a round.
COLD = Effort(rounds=15, round_seconds=0.0, warm_up_seconds=0.0)
FEWEST_WARM_UPS = 3  # whose median one slow call does not move


class Clock(Protocol):
    """Seconds a call takes, of ``calls`` made one after the other."""

    def __call__(self, call: Call, calls: int) -> float: ...


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector waits: one pass over all that the suite imports takes as long as a dozen rounds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def host_clock(call: Call, calls: int) -> float:
    """Time that the host waits, for calls that are done when they return."""
    with uncollected():
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls


def device_clock(call: Call, calls: int) -> float:
    """Time that passes on the current stream, gaps in which the GPU waits for the host included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with uncollected():
        start.record()
        for _ in range(calls):
            call()
        end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


class ColdClock:
    """Clock like the warm one of ``device``, each call alone and after the last cache has been overwritten."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._filler = torch.empty(2 * last_cache(device), dtype=torch.int8, device=device)

    def __call__(self, call: Call, calls: int) -> float:
        return sum(self._once(call) for _ in range(calls)) / calls

    def _once(self, call: Call) -> float:
        self._filler.zero_()
        return warm_clock(self._device)(call, 1)


def warm_clock(device: torch.device) -> Clock:
    return device_clock if device.type == "cuda" else host_clock


def last_cache(device: torch.device) -> int:
    """Bytes of the last cache before the memory of ``device``; 64 MiB where a CPU does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]] for size in sizes), default=2**26)


def interleaved(
    variants: Mapping[str, Call], clock: Clock = host_clock, effort: Effort | None = None
) -> dict[str, list[float]]:
    """Seconds a call of each variant, one number a round.

    The variants take turns within a round, and another one begins each round, so that none always follows the same.
    """
    effort = effort or Effort()
    calls, a_round = {}, 0.0
    for name, call in variants.items():
        calls[name], seconds = warm_up(call, clock, effort)
        a_round += calls[name] * seconds
    rounds = min(effort.rounds, max(effort.fewest_rounds, int(effort.budget_seconds / a_round)))
    taken: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for made in range(rounds):
        first = made % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(clock(variants[name], calls[name]))
    return taken


def replayed(call: Call) -> Call:
    """``call`` as a CUDA graph, which leaves no gaps between its kernels; gives the same tensors at every replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with recording(graph, side):
        results = call()

    def replay() -> object:
        graph.replay()
        return results

    return replay


def warm_up(call: Call, clock: Clock, effort: Effort) -> tuple[int, float]:
    """Run ``call`` until it is warm; how many calls fill a round, and the median seconds of one.

    The first call, which pays for what is made once, is not counted, and one call that something else held up does not
    move the median: few calls a round would be as cold as the variants before leave them.
    """
    clock(call, 1)
    taken, elapsed = [], 0.0
    while len(taken) < FEWEST_WARM_UPS or elapsed < effort.warm_up_seconds:
        taken.append(clock(call, 1))
        elapsed += taken[-1]
    each = statistics.median(taken)
    return max(1, round(effort.round_seconds / each)), each


def peak_bytes(call: Call, device: torch.device) -> int:
    """The most memory that a call takes beyond its inputs, of PyTorch's allocator.

    On a GPU what the allocator counts itself, on a CPU the running sum of what the profiler records. Inside an op too,
    compiled ones included; what a library takes elsewhere than from PyTorch's allocator is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    events = recorded.profiler.kineto_results.events()
    live = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def network_share(call: Call, device: torch.device) -> float:
    """The share of a call's time inside PyTorch's own operators, which are its networks' but for a few.

    The rest is fastadv's operators and the host: Python, checks and the way to an operator. From one profiled call,
    which takes a little longer than others.
    """
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as recorded:
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    ours = ("fastadv::", "autograd::")
    own = sum(
        event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in recorded.events()
        if "::" in event.name and not event.name.startswith(ours)
    )
    return own / 1e6 / seconds
