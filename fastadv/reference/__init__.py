"""Every op in plain PyTorch, under its public name and signature: the one oracle, and the fallback.

The functions take float64 as well as the reduced precisions, accumulate in float32 for half, bfloat16 and float32 and
in float64 for float64, and check nothing: the public functions of :mod:`fastadv.ops` do. The value form of a loss is
differentiable by autograd; its ``_value_and_grad`` form writes the gradient out.
"""
