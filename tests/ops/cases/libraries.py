"""The two libraries that a case is called with: the public functions, and the oracle under the same names."""

from __future__ import annotations

from types import SimpleNamespace

import fastadv
from fastadv.ops.loss import scale_grad
from fastadv.ops.mix import mix_backward
from fastadv.reference import attack_loss, ball, divergence, hyperplane, matching, metric, mix, rkd, square, step, svgd

FUSED = SimpleNamespace(
    scale_grad=lambda *arguments: scale_grad.on(arguments[0])(*arguments),
    mix_backward=lambda *arguments: mix_backward.on(arguments[0])(*arguments),
    **{name: getattr(fastadv, name) for name in fastadv.__all__},
)
# A function of the reference has its op's name; what is no public function is called with the op's own arguments.
_MODULES = (attack_loss, ball, divergence, hyperplane, matching, metric, mix, rkd, square, step, svgd)
ORACLE = SimpleNamespace(
    **{name: getattr(module, name) for name in fastadv.__all__ for module in _MODULES if hasattr(module, name)}
    | {
        "pgd_step_": step.pgd_step,
        "mix_backward": lambda grad, lam, permutation, lam_n=None: mix.mix_backward(
            grad, lam if lam_n is None else lam_n, permutation
        ),
        "scale_grad": lambda grad, factor, dtype: grad * (factor[:, None] if factor.dim() else factor),
    }
)
