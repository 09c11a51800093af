"""Calls every case with the CUDA library, aligned and not, small and large, for a tool that watches kernels."""

from __future__ import annotations

import torch

import fastadv
from tests.ops.cases import CASES, FUSED, ORACLE, SIZES, Case, Draw, Tensors, in_float64
from tests.ops.layouts import Guarded
from tests.ops.tolerance import assert_within


def check(case: Case, drawn: Tensors, placed: Tensors) -> None:
    """The results on the GPU agree with the reference's."""
    exact = in_float64(drawn)
    doubtful = case.doubtful(ORACLE, exact)
    for result, expected in zip(case.evaluate(FUSED, placed), case.evaluate(ORACLE, exact), strict=True):
        assert_within(case.kind, result.cpu(), expected, doubtful=doubtful)


def main() -> None:
    calls = 0
    with fastadv.use_backend("cuda"):
        for case in CASES:
            for size in (SIZES[case.sizes][0], SIZES[case.sizes][-1]):
                drawn = case.make(Draw(torch.float32), size)
                check(case, drawn, {name: x.cuda() for name, x in drawn.items()})
                # Inside of larger buffers, where no tensor is aligned for accesses of 16 bytes.
                check(case, drawn, Guarded("cuda").place(drawn))
                calls += 2
    print(f"{calls} calls agree with the reference")


if __name__ == "__main__":
    main()
