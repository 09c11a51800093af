"""The most memory that a call takes beyond its inputs."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.suite.case import Call


def peak_bytes(call: Call, device: torch.device) -> int:
    """Of PyTorch's allocator: on a GPU what it counts itself, on a CPU the running sum of what the profiler records.

    Inside an op too, compiled ones included; what a library takes elsewhere than from PyTorch's allocator is not seen.
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
