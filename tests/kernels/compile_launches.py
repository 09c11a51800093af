"""Compiles what the launchers launch, for a target that need not be here: ``compile_launches.py BACKEND ARCH DTYPE``.

The launchers run on CPU tensors with Triton's entry point replaced, so that every kernel is compiled with the very tile
sizes, constants, warps and options of a real launch. Prints one line of JSON a kernel.
"""

import contextlib
import io
import json
import math
import re
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from fastadv.kernels import (
    attack_loss,
    ball,
    divergence,
    hyperplane,
    loss,
    matching,
    metric,
    mix,
    rkd,
    square,
    step,
    svgd,
)

_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
_OPTIONS = ("num_warps", "enable_fp_fusion", "maxnreg")


_compiled: set[str] = set()


def compile_for(target: GPUTarget, kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Compile one launch as Triton would, and report spills and shared memory; None where one like it was."""
    options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
    arguments = kernel.signature.bind(*args, **kwargs).arguments
    signature, constants, attributes = {}, {}, {}
    for parameter in kernel.params:
        value = arguments[parameter.name]
        one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = parameter.annotation_type or _type(value)
        aligned = isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0)
        if aligned and not parameter.do_not_specialize:
            attributes[(parameter.num,)] = [["tt.divisibility", 16]]
    launch = repr((kernel.fn.__name__, signature, constants, attributes, options))
    if launch in _compiled:
        return None
    _compiled.add(launch)
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        compiled = triton.compile(ASTSource(kernel, signature, constants, attributes), target=target, options=options)
    return {
        "kernel": kernel.fn.__name__,
        "constants": {name: value for name, value in constants.items() if value is not None},
        "spilled": _spilled(compiled.asm, log.getvalue()),
        "shared": compiled.metadata.shared,
    }


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _spilled(asm: dict[str, Any], ptxas_log: str) -> int:
    """Count what went to memory for want of registers: bytes stored (NVIDIA) or vector registers (AMD)."""
    if "amdgcn" in asm:
        found = re.findall(r"\.vgpr_spill_count:\s*(\d+)", asm["amdgcn"])
    else:
        found = re.findall(r"(\d+) bytes spill stores", ptxas_log)
    assert found, "the compiler reports no spills, not even none"
    return sum(map(int, found))


def launch_all(dtype: torch.dtype) -> None:
    """Call the launchers so that every kernel is launched, in its representative forms."""
    accumulator = torch.float64 if dtype is torch.float64 else torch.float32
    images = torch.zeros(8, 3, 32, 32, dtype=dtype)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    per_image = torch.ones(8, dtype=accumulator)
    box = (0.0, 1.0)
    for norm in (0, 1, 2):
        step.pgd_step(images, images, images, 0.03, 0.01, norm, *box, 0.05, True, None, None)
        step.momentum_step(*[images] * 4, 0.03, 0.01, norm, *box, 0.05, 0.9, None, None)
        ball.project(images, images, 0.0, norm, -math.inf, math.inf, False, per_image)
        ball.random_start(channels_last, 0.0, norm, *box, 1, per_image, None, torch.arange(8))
    pixels, per_pixel = images.reshape(-1, 1), torch.ones(images.numel(), dtype=accumulator)
    step.pgd_step(pixels, pixels, pixels, 0.0, 0.0, 0, *box, 0.05, True, per_pixel, per_pixel)
    level, sides = torch.zeros(8, dtype=torch.int64), torch.full([10], 5)
    bumps = torch.zeros(10, 5, 5, dtype=accumulator)
    for norm in (0, 1, 2):
        hyperplane.project_hyperplane(images, images, per_image, norm, *box)
        square.square_propose(
            images, images, level, level, sides, 0.03, norm, *box, 0, bumps if norm else None, None, None, None
        )
    square.square_propose(
        *[channels_last] * 2, level, level, sides, 0.0, 1, *box, 1, bumps, per_image, torch.tensor(7), torch.arange(8)
    )
    ball.random_start(images, 0.03, 0, *box, 0, None, torch.tensor(7), None)
    # A sample is shared out among programs.
    large, particles = torch.zeros(2, 3, 128, 128, dtype=dtype), torch.zeros(1, 2, 3, 128, 128, dtype=dtype)
    for norm in (0, 1, 2):
        step.momentum_step(*[large] * 4, 0.03, 0.01, norm, *box, 0.05, 0.9, None, None)
    ball.project(large, large, 0.03, 1, *box, False, per_image[:2])
    ball.random_start(large, 0.03, 1, *box, 1, None, None, None)
    ball.random_start(large, 0.03, 2, *box, 1, None, None, None)
    svgd.svgd_step(particles, particles, large[:1], 0.03, 0.01, 0, *box, None, 1, None, None, None)
    step.bss_step(large, large, per_image[:2], torch.ones(2, dtype=torch.bool), 0.3, *box, None)
    step.bss_step(images, images, per_image, torch.ones(8, dtype=torch.bool), 0.3, *box, None)
    for lam_n in (None, per_image):
        mix.mix(images, 0.5, torch.arange(8), lam_n)
        mix.mix_backward(images, 0.5, torch.arange(8), lam_n)

    particles = torch.zeros(8, 4, 3, 32, 32, dtype=dtype)
    svgd.svgd_step(particles, particles, images, 0.03, 0.01, 0, *box, None, 0, None, None, None)
    svgd.svgd_step(particles, particles, images, 0.0, 0.0, 0, *box, 0.5, 2, 1.0, per_image, per_image)
    many = torch.zeros(2, 32, 3, 64, 64, dtype=dtype)
    svgd.svgd_step(many, many, many[:, 0], 0.03, 0.01, 1, *box, None, 1, None, None, None)

    few, long = torch.zeros(64, 100, dtype=dtype), torch.zeros(4, 32000, dtype=dtype)
    widest = torch.zeros(4, 1024 if dtype is not torch.float64 else 512, dtype=dtype)
    target = torch.zeros(64, dtype=torch.int64)
    weight = torch.ones(64, dtype=accumulator)
    both = (1.0, False, True, True, None)
    divergence.kl_distill(few, few, 4.0, *both)
    # Longer than a tile, and so long that programs share a row.
    for rows in (torch.zeros(4, 3000, dtype=dtype), long):
        divergence.kl_distill(rows, rows, 1.0, *both)
        divergence.kd_loss(rows, rows, target[:4], 4.0, 0.9, *both)
        divergence.js_distill(rows, rows, 4.0, *both)
    divergence.kd_loss(few, few, target, 4.0, 0.9, 1.0, False, True, False, weight)
    divergence.kd_loss(widest, widest, target[:4], 4.0, 0.9, *both)
    divergence.js_distill(few, few, 4.0, *both)
    for rows in (torch.zeros(4, 3000, dtype=dtype), long):
        matching.loss_matching(rows, rows, target[:4], *both)
    divergence.dkd_loss(few, few, target, 4.0, 1.0, 8.0, 1.0, False, True, False, weight)
    divergence.dkd_loss(long, long, target[:4], 4.0, 1.0, 8.0, *both)
    matching.igdm_loss(few, few, few, few, 1.0, False, True, True, False, False, None)
    matching.loss_matching(few, few, target, *both)
    matching.activation_boundary_loss(images, images, 1.0, 1.0, True, True, None, None)
    matching.activation_boundary_loss(few, few, 0.0, 1.0, False, False, weight, None)
    all_three = (1.0, False, True, True, True)
    for order in (0.0, 1.0, 2.0, 3.0, math.inf):
        metric.triplet_margin_loss(few, few, few, 1.0, order, 1e-6, True, *all_three, None, None)
        metric.triplet_margin_loss(long, long, long, 1.0, order, 1e-6, True, *all_three, None, None)
    metric.triplet_margin_loss(widest, widest, widest, 0.0, 2.0, 1e-6, False, *all_three, weight[:4], None)
    rkd.rkd_loss(few, long[:1, :512].expand(64, 512), 25.0, 50.0, True)
    attack_loss.attack_loss(few, target, 0, 1.0, False, True, None, None)
    for kind, truth in ((2, None), (3, target), (4, None)):
        attack_loss.attack_loss(few, target, kind, 1.0, False, True, truth, weight)
        for logits in (widest, long):
            four = None if truth is None else truth[:4]
            attack_loss.attack_loss(logits, target[:4], kind, 1.0, False, True, four, None)
    loss.scale_grad(few.to(accumulator), weight, dtype)


def main(backend: str, arch: str, dtype: str) -> None:
    """Compile all launches for one target and dtype."""
    triton.knobs.nvidia.dump_ptxas_log = True
    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        report = compile_for(target, kernel, args, kwargs)
        if report is not None:
            print(json.dumps(report), flush=True)

    JITFunction.run = record
    launch_all(getattr(torch, dtype))


if __name__ == "__main__":
    main(*sys.argv[1:])
