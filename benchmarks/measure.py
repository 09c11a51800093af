"""Interleaved timing: every round times each variant once, and ratios are taken within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

ROUNDS = 41
ROUND_SECONDS = 0.004
WARM_UP_SECONDS = 0.05
Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4)
        return cls(median, low, high)


class Clock(Protocol):
    """Seconds a call takes, of ``calls`` made one after the other."""

    def __call__(self, call: Call, calls: int) -> float: ...


def host_clock(call: Call, calls: int) -> float:
    """What the host waits, for calls that are done when they return."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def device_clock(call: Call, calls: int) -> float:
    """What passes on the current stream, gaps in which the GPU waits for the host included."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


class ColdClock:
    """As :func:`device_clock`, each call alone and after the L2 cache has been overwritten."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self._filler = torch.empty(4 * size, dtype=torch.int8, device="cuda")

    def __call__(self, call: Call, calls: int) -> float:
        events = []
        for _ in range(calls):
            self._filler.zero_()
            pair = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            pair[0].record()
            call()
            pair[1].record()
            events.append(pair)
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in events) / 1000 / calls


def interleaved(
    variants: Mapping[str, Call], clock: Clock = host_clock, *, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds a call of each variant, one number a round, the variants taking turns within a round."""
    calls = {name: _warm_up(call, clock) for name, call in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            seconds[name].append(clock(call, calls[name]))
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> Spread:
    """The ratio round by round: noise that hits a whole round cancels."""
    return Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def replayed(call: Call) -> Call:
    """``call`` as a CUDA graph, which leaves no gaps between its kernels; gives the same tensors at every replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        results = call()

    def replay() -> object:
        graph.replay()
        return results

    return replay


def bandwidth() -> float:
    """Bytes a second that the current GPU reads and writes in a copy much larger than its caches."""
    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, device_clock)["copy"]
    return 2 * source.numel() / statistics.median(seconds)


def _warm_up(call: Call, clock: Clock) -> int:
    """Run ``call`` until it is warm; how many calls fill a round."""
    count, elapsed = 0, 0.0
    while elapsed < WARM_UP_SECONDS or count < 3:
        count, elapsed = count + 1, elapsed + clock(call, 1)
    return max(1, round(ROUND_SECONDS * count / elapsed))
