"""Prints how far Triton, interpreted, is from the reference on inputs of more than one block."""

import json
import math
from collections.abc import Callable

import torch
from torch import Tensor

import fastadv
from fastadv.kernels import launch
from tests.ops import quick_interpreter


def compare(case: str, compute: Callable[[], tuple[Tensor, ...]]) -> None:
    """Print how far the backends' results are apart, relative to the reference's largest value."""
    with fastadv.use_backend("reference"):
        expected = compute()
    with fastadv.use_backend("triton"):
        got = compute()
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True)]
    print(json.dumps({"case": case, "error": max(math.inf if math.isnan(error) else error for error in errors)}))


def main() -> None:
    """Compare in float64, where an algorithm that differs shows."""
    quick_interpreter.install()
    draw = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 5000, generator=draw, dtype=torch.float64)
    x = x0 + torch.randn(3, 5000, generator=draw, dtype=torch.float64)
    grad = torch.randn(3, 5000, generator=draw, dtype=torch.float64)
    assert x0.shape[1] > 2 * launch.block(x0.shape[1], x0)
    radii = torch.tensor([1e-3, 5.0, 60.0], dtype=torch.float64)
    compare("project l2", lambda: (fastadv.project(x, x0, eps=radii, norm="l2"),))
    compare("project l1", lambda: (fastadv.project(x, x0, eps=radii, norm="l1"),))
    compare("pgd_step l1", lambda: (fastadv.pgd_step(x, grad, x0, eps=radii, step_size=20.0, norm="l1"),))
    compare("random_start l1", lambda: (fastadv.random_start(x0, eps=radii, norm="l1", bounds=None, seed=3) - x0,))
    compare("pgd_step l2", lambda: (fastadv.pgd_step(x, grad, x0, eps=radii, step_size=20.0, norm="l2"),))
    for norm in ("linf", "l2", "l1"):
        how = {"eps": radii, "step_size": 20.0, "norm": norm, "decay": 0.8}
        compare(f"momentum_step {norm}", lambda how=how: fastadv.momentum_step(x, grad, x0, x0, **how))
    gap, active = torch.tensor([3.0, 0.1, 2.0]), torch.tensor([True, False, True])
    compare("bss_step", lambda: (fastadv.bss_step(x, grad, gap, active, step_size=radii, bounds=None),))
    compare("random_start l2", lambda: (fastadv.random_start(x0, eps=radii, norm="l2", bounds=None, seed=3) - x0,))

    student, teacher = (3 * torch.randn(2, 9001, generator=draw, dtype=torch.float64) for _ in range(2))
    target = torch.tensor([9000, 17])
    compare(
        "kl_distill", lambda: fastadv.kl_distill_value_and_grad(student, teacher, temperature=3.0, teacher_grad=True)
    )
    compare("kd_loss", lambda: fastadv.kd_loss_value_and_grad(student, teacher, target, teacher_grad=True))
    compare("loss_matching", lambda: fastadv.loss_matching_value_and_grad(student, teacher, target, teacher_grad=True))
    compare("attack_loss ce", lambda: fastadv.attack_loss_value_and_grad(student, target))
    levels = student.round()
    for kind in ("cw", "dlr"):
        compare(f"attack_loss {kind}", lambda kind=kind: fastadv.attack_loss_value_and_grad(levels, target, kind=kind))
    how = {"kind": "dlr", "reference": target.flip(0), "targeted": True}
    compare("attack_loss dlr towards", lambda: fastadv.attack_loss_value_and_grad(student, target, **how))

    triplet = [torch.randn(2, 9001, generator=draw, dtype=torch.float64) for _ in range(3)]
    for p in (1.0, 2.0, 3.0, math.inf):
        compare(
            f"triplet_margin_loss {p}",
            lambda p=p: fastadv.triplet_margin_loss_value_and_grad(*triplet, p=p, swap=True, eps=1e-2, margin=9.0),
        )
    compare("activation_boundary_loss", lambda: fastadv.activation_boundary_loss_value_and_grad(student, teacher))

    # More points than a tile, and more features, each with few of the other: together they take half of all the time.
    for size in ((70, 33), (9, 600)):
        features = torch.randn(size, generator=draw, dtype=torch.float64)
        other = features[:, :-7].exp()
        compare(f"rkd_loss {size}", lambda of=(features, other): fastadv.rkd_loss_value_and_grad(*of))

    images = torch.rand(2, 6000, generator=draw, dtype=torch.float64)
    noise, score = (0.05 * torch.randn(2, 3, 6000, generator=draw, dtype=torch.float64) for _ in range(2))
    particles = images[:, None] + noise
    for norm, update, eps in (("linf", "raw", 0.2), ("linf", "l2", 0.2), ("l2", "l2", 2.0)):
        how = {"eps": eps, "step_size": 1.0, "norm": norm, "update": update, "score_scale": "rms", "bounds": None}
        compare(f"svgd_step {norm} {update}", lambda how=how: (fastadv.svgd_step(particles, score, images, **how),))


if __name__ == "__main__":
    main()
