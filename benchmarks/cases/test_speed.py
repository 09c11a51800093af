"""The same cases through pytest-benchmark: ``pytest benchmarks --benchmark-only``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cases import selected
from benchmarks.suite.measure import Effort, warm_clock
from benchmarks.suite.runner import Conditions, agreeing, variants_of

ENTRIES = selected()
VARIANTS = ("fused", "eager", "compiled")
CPU = torch.device("cpu")


@pytest.mark.benchmark(disable_gc=True)
@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.name for entry in ENTRIES])
@pytest.mark.parametrize("variant", VARIANTS)
def test_speed(benchmark: Any, entry: Any, variant: str) -> None:
    case = entry.build(CPU)
    variants, missing = variants_of(case, entry, Conditions(CPU, warm_clock(CPU), None, Effort()))
    if variant not in variants:
        pytest.skip(f"{variant}: {missing[variant]}")
    wanted = {name: call for name, call in variants.items() if name in ("fused", "eager", variant)}
    right, differences, wrong = agreeing(case, wanted)
    assert variant in right, wrong.get(variant)
    benchmark.group = entry.name
    benchmark.extra_info["difference"] = differences[variant]
    benchmark(right[variant])
