"""How far a backend may lie from the reference evaluated in float64 on the same inputs: the one table."""

from __future__ import annotations

import torch
from torch import Tensor

# Half a unit in the last place of the accumulation precision: float64 for float64, float32 for all others.
ACCUMULATION = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-24, torch.float16: 2.0**-24}
# Relative error, and in the subnormal range absolute error, of storing a result in the dtype once.
STORAGE = {
    torch.float64: (2.0**-53, 2.0**-1075),
    torch.float32: (2.0**-24, 2.0**-150),
    torch.bfloat16: (2.0**-8, 2.0**-134),
    torch.float16: (2.0**-11, 2.0**-25),
}
# Units of the accumulation precision, of the largest magnitude in the result and at least of 1.
UNITS = {
    # Two sums and a few comparisons of pixels of order 1; eps and step size are themselves rounded.
    "linf": 4,
    # A norm of D squares, a quotient, a Newton iteration that stops one rounding from its root.
    "l2": 8,
    # A sum of D distances, which may end by eight units short of eps.
    "l1": 16,
    # A sum of D products less an offset near it, of which the coordinates that are left take the whole rounding.
    "plane": 128,
    # A sum of D magnitudes, a quotient, a product and a sum.
    "momentum": 8,
    # Two products and a sum; in the backward pass as many products as samples were mixed with one.
    "mix": 4,
    # Logarithm, sine and cosine within a few units each, a norm of D of them, a D-th root.
    "noise": 16,
    # Kernel entries are exponentials of squared distances, whose relative error the exponent multiplies.
    "svgd": 64,
    # Sums of C products of probabilities with differences of logits, which cancel; temperature squared multiplies.
    "loss": 64,
    # A difference of norms of D terms, which PyTorch adds up in a few lanes: the error grows with D.
    "metric": 256,
    # Cosines within a few units; where points are near, inverse lengths, and squares of them that cancel, multiply.
    "rkd": 64,
    # One product.
    "scale": 1,
}
# The same for float64, where an op does not go to the end of that precision.
UNITS_OF_FLOAT64 = UNITS | {
    # The search for the threshold ends up to 2^-45 of eps short of it.
    "l1": 16 + 256,
}


def allowance(kind: str, expected: Tensor, dtype: torch.dtype) -> Tensor:
    """The error allowed of each element of a result of ``dtype`` whose float64 value is ``expected``."""
    relative, absolute = STORAGE[dtype]
    finite = expected[expected.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    accumulation = ACCUMULATION[dtype]
    units = UNITS_OF_FLOAT64 if dtype is torch.float64 else UNITS
    return units[kind] * accumulation * scale + 1.01 * relative * expected.abs() + absolute


def assert_within(kind: str, actual: Tensor, expected: Tensor, *, doubtful: Tensor | None = None) -> None:
    """``actual`` agrees with the float64 ``expected``, wherever that is not ``doubtful``; NaN and infinity coincide."""
    assert actual.shape == expected.shape
    wide = actual.double()
    error = (wide - expected).abs()
    fine = (error <= allowance(kind, expected, actual.dtype)) | (wide == expected) | (wide.isnan() & expected.isnan())
    if doubtful is not None:
        fine |= doubtful
    if not fine.all():
        worst = torch.where(fine, 0, error).nan_to_num(nan=torch.inf).flatten().argmax()
        got, want = wide.flatten()[worst].item(), expected.flatten()[worst].item()
        raise AssertionError(f"{int((~fine).sum())} of {fine.numel()} elements are off, the worst is {got}, not {want}")
