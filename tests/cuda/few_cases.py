"""Calls every case with the CUDA library, aligned and not, small and large, for a tool that watches kernels."""

from __future__ import annotations

import argparse

import torch

import fastadv
from tests.ops.cases import CASES, FUSED, ORACLE, SIZES, Case, Draw, Tensors, in_float64
from tests.ops.layouts import Guarded
from tests.ops.tolerance import assert_within

# Sizes that reach the kernels for rows held by a block, for samples shared out, for several tiles of points.
LARGE = {
    "logits": ((3, 1000),),
    "images": ((2, 3, 64, 64),),
    "particles": ((1, 5, 3, 32, 32),),
    "relations": ((35, 260),),
}


def check(case: Case, drawn: Tensors, placed: Tensors) -> None:
    """Assert that the results on the GPU agree with the reference's."""
    exact = in_float64(drawn)
    doubtful = case.doubtful(ORACLE, exact)
    for result, expected in zip(case.evaluate(FUSED, placed), case.evaluate(ORACLE, exact), strict=True):
        assert_within(case.kind, result.cpu(), expected, doubtful=doubtful)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", default="", help="the ops whose cases are called, separated by commas; all for none")
    chosen = [name for name in parser.parse_args().ops.split(",") if name]
    calls = 0
    with fastadv.use_backend("cuda"):
        for case in (case for case in CASES if not chosen or case.op in chosen):
            for size in (SIZES[case.sizes][0], SIZES[case.sizes][-1], *LARGE.get(case.sizes, ())):
                drawn = case.make(Draw(torch.float32), size)
                check(case, drawn, {name: x.cuda() for name, x in drawn.items()})
                # Inside of larger buffers, where no tensor is aligned for accesses of 16 bytes.
                check(case, drawn, Guarded("cuda").place(drawn))
                calls += 2
            print(case, flush=True)
    print(f"{calls} calls agree with the reference")


if __name__ == "__main__":
    main()
