"""One side of a comparison of commits: takes orders on stdin, answers on stdout, a line of JSON each.

Its fastadv is that of the commit to be measured, its cases are those of the commit that compares.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

import fastadv
from benchmarks.cases import registry
from benchmarks.suite.case import Call
from benchmarks.suite.measure import Effort, host_clock, warm_up


class Worker:
    """The case that is being measured."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in registry()}
        self._call: Call | None = None
        self._calls = 1

    def answer(self, order: dict[str, Any]) -> object:
        match order["do"]:
            case "where":
                return fastadv.__file__
            case "prepare":
                self._call = self._entries[order["case"]].build(torch.device("cpu")).fused
                torch.save(self._call(), order["result"])
                self._calls, _ = warm_up(self._call, host_clock, Effort())
                return self._calls
            case "time":
                assert self._call is not None
                return host_clock(self._call, order["calls"])
        raise ValueError(f"unknown order {order['do']!r}")


def main() -> None:
    worker, answers = Worker(), sys.stdout
    # What a case prints must not be taken for an answer.
    sys.stdout = sys.stderr
    for line in sys.stdin:
        try:
            answer = {"answer": worker.answer(json.loads(line))}
        except Exception as error:  # an older commit may lack an op or an argument, in whatever way
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
