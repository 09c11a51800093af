"""The share of an attack that the network takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class TimedNetwork(nn.Module):
    """`network`, with the moments noted at which its forward and backward passes begin and end."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._device = device
        self._marks: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        self._mark()
        logits = self.network(x)
        self._mark()
        if logits.requires_grad:
            # The gradient reaches the logits first and the images last.
            logits.register_hook(lambda grad: self._mark())
            x.register_hook(lambda grad: self._mark())
        return logits

    def time(self, run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
        """Return what `run` returns, the seconds it takes, and those of them in the network. Waits for the device."""
        self._marks = []
        self._mark()
        result = run()
        self._mark()
        first, *passes, last = self._marks
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        inside = sum(self._seconds(*span) for span in zip(passes[::2], passes[1::2], strict=True))
        return result, self._seconds(first, last), inside

    def _mark(self) -> None:
        if self._device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self._device))
            self._marks.append(mark)
        else:
            self._marks.append(time.perf_counter())

    @staticmethod
    def _seconds(start: Any, end: Any) -> float:
        return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
