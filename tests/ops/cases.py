"""The cases that every registered op is tested with: its inputs, and the call of its public function."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import fastadv
from fastadv.ops.loss import scale_grad
from fastadv.ops.mix import mix_backward
from fastadv.reference import attack_loss, ball, divergence, matching, metric, mix, rkd, step, svgd

Tensors = dict[str, Tensor]
Size = tuple[int, ...]


class Draw:
    """Random inputs of one dtype, the same for the same seed."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self.dtype = dtype
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: Size, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=self._generator, dtype=torch.float64)).to(self.dtype)

    def pixels(self, shape: Size) -> Tensor:
        """Uniform in [0, 1], with a tenth of the pixels black and a tenth white."""
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return (1.25 * uniform - 0.125).clamp(0, 1).to(self.dtype)

    def gradient(self, shape: Size) -> Tensor:
        """Normal, with a tenth of the elements zero."""
        dropped = torch.rand(shape, generator=self._generator) < 0.1
        return self.normal(shape).masked_fill(dropped, 0)

    def positive(self, samples: int, most: float) -> Tensor:
        """One number a sample in [0, most], the first zero, in the precision of per-sample arguments."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        values = most * torch.rand(samples, generator=self._generator, dtype=dtype)
        values[:1] = 0
        return values

    def classes(self, samples: int, classes: int) -> Tensor:
        return torch.randint(classes, (samples,), generator=self._generator)


@dataclass(frozen=True)
class Case:
    """One way of calling an op.

    ``call`` takes a library, :data:`FUSED` or :data:`ORACLE`, and the tensors that ``make`` draws. ``kind`` is a row of
    the table of tolerances, ``sizes`` one of :data:`SIZES`. ``exact``: float32 results equal the reference's to the
    bit. ``phi``: the direction, where its sign alone decides how the samples move.
    """

    name: str
    op: str
    kind: str
    sizes: str
    make: Callable[[Draw, Size], Tensors]
    call: Callable[[Any, Tensors], Tensor]
    differentiable: tuple[str, ...] = ()
    exact: bool = False
    phi: Callable[[Any, Tensors], Tensor] | None = None

    def __str__(self) -> str:
        return self.name

    def evaluate(self, library: Any, tensors: Tensors) -> list[Tensor]:
        """The results, and the gradient by every differentiable input for an incoming gradient other than one."""
        leaves = {name: t.detach() for name, t in tensors.items()}
        for name in self.differentiable:
            leaves[name].requires_grad_()
        result = self.call(library, leaves)
        if not self.differentiable:
            return [result]
        return [result.detach(), *self.gradients(result, leaves)]

    def gradients(self, result: Tensor, leaves: Tensors) -> tuple[Tensor, ...]:
        """By every differentiable input, for an incoming gradient other than one, the same in every dtype."""
        # From 1/2 up in steps of 1/128, which every dtype and device has exactly.
        incoming = (64 + torch.arange(result.numel(), device=result.device) % 128).to(result.dtype) / 128
        incoming = incoming.view(result.shape)
        return torch.autograd.grad(result, [leaves[name] for name in self.differentiable], incoming)

    def doubtful(self, tensors: Tensors) -> Tensor | None:
        """Where the float64 direction is so small that rounding decides its sign."""
        if self.phi is None:
            return None
        phi = self.phi(ORACLE, tensors)
        return phi.abs() <= 1e-4 * phi.square().mean().sqrt()


def in_float64(tensors: Tensors) -> Tensors:
    return {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}


# Odd sizes, D no multiple of 16, one sample, none, single pixels, more than a block of any kernel.
SIZES: dict[str, tuple[Size, ...]] = {
    "images": ((3, 3, 5, 7), (1, 3, 5, 7), (0, 3, 4, 4), (2, 1, 1, 1), (2, 5), (1, 4, 2, 3, 3), (2, 3, 37, 41)),
    "particles": ((2, 4, 2, 3, 3), (3, 1, 2, 3, 3), (1, 2, 7), (0, 4, 3, 2, 2), (1, 7, 3, 5, 5), (1, 2, 1, 33, 41)),
    "logits": ((5, 7), (1, 2), (0, 10), (7, 100), (3, 1271), (2, 32000), (4, 1)),
    "features": ((3, 3, 5, 7), (1, 3, 5, 7), (0, 3, 4, 4), (2, 1, 1, 1), (2, 5), (1, 4, 2, 3, 3), (2, 3, 37, 41)),
    # Two points, none, one, points on a line, more features or points than a tile of any kernel.
    "relations": ((5, 7), (2, 3), (0, 4), (1, 4), (4, 1), (9, 260), (37, 5)),
    "odds": ((5, 7), (1, 2), (0, 10), (7, 100), (3, 1271), (2, 32000)),
    "ranks": ((5, 7), (1, 4), (0, 10), (7, 100), (3, 1271), (2, 32000)),
}

FUSED = SimpleNamespace(
    scale_grad=lambda *arguments: scale_grad.on(arguments[0])(*arguments),
    mix_backward=lambda *arguments: mix_backward.on(arguments[0])(*arguments),
    **{name: getattr(fastadv, name) for name in fastadv.__all__},
)
ORACLE = SimpleNamespace(
    project=ball.project,
    random_start=ball.random_start,
    pgd_step=step.pgd_step,
    pgd_step_=step.pgd_step,
    momentum_step=step.momentum_step,
    bss_step=step.bss_step,
    svgd_step=svgd.svgd_step,
    kl_distill=divergence.kl_distill,
    kd_loss=divergence.kd_loss,
    js_distill=divergence.js_distill,
    dkd_loss=divergence.dkd_loss,
    loss_matching=matching.loss_matching,
    igdm_loss=matching.igdm_loss,
    activation_boundary_loss=matching.activation_boundary_loss,
    rkd_loss=rkd.rkd_loss,
    attack_loss=attack_loss.attack_loss,
    triplet_margin_loss=metric.triplet_margin_loss,
    mix=mix.mix,
    mix_backward=lambda grad, lam, permutation, lam_n=None: mix.mix_backward(
        grad, lam if lam_n is None else lam_n, permutation
    ),
    scale_grad=lambda grad, factor, dtype: grad * (factor[:, None] if factor.dim() else factor),
)


def _centred(draw: Draw, size: Size) -> Tensors:
    return {"x0": draw.pixels(size)}


def _displaced(draw: Draw, size: Size) -> Tensors:
    x0 = draw.pixels(size)
    return {"x": x0 + draw.normal(size, 0.1), "x0": x0}


def _stepping(draw: Draw, size: Size) -> Tensors:
    x0 = draw.pixels(size)
    return {"x": x0 + draw.normal(size, 0.02), "grad": draw.gradient(size), "x0": x0}


def _gathering(draw: Draw, size: Size) -> Tensors:
    return _stepping(draw, size) | {"m": draw.gradient(size)}


def _approaching(draw: Draw, size: Size) -> Tensors:
    active = torch.arange(size[0]) % 3 != 1
    return _stepping(draw, size) | {"gap": draw.positive(size[0], 4.0), "active": active}


def _mixing(draw: Draw, size: Size) -> Tensors:
    # Any indices: some samples are taken twice, some never.
    return {"x": draw.pixels(size), "p": draw.classes(size[0], max(size[0], 1)), "lam": draw.positive(size[0], 1.5)}


def _particles(draw: Draw, size: Size) -> Tensors:
    x0 = draw.pixels((size[0], *size[2:]))
    return {"x": x0[:, None] + draw.normal(size, 0.02), "score": draw.normal(size), "x0": x0}


def _radii(most: float, make: Callable[[Draw, Size], Tensors]) -> Callable[[Draw, Size], Tensors]:
    return lambda draw, size: make(draw, size) | {"eps": draw.positive(size[0], most)}


def _radii_and_steps(most: float, make: Callable[[Draw, Size], Tensors]) -> Callable[[Draw, Size], Tensors]:
    return lambda draw, size: _radii(most, make)(draw, size) | {"step": draw.positive(size[0], most) - most / 3}


def _identified(draw: Draw, size: Size) -> Tensors:
    ids = torch.arange(size[0]) * 7 + (3 << 32) - 5
    return _radii(0.1, _centred)(draw, size) | {"seed": torch.tensor(-(2**40) + 9), "ids": ids}


def _networks(draw: Draw, size: Size) -> Tensors:
    return {"s": draw.normal(size, 2.0), "t": draw.normal(size, 3.0)}


def _labelled(draw: Draw, size: Size) -> Tensors:
    return _networks(draw, size) | {"y": draw.classes(*size)}


def _misled(draw: Draw, size: Size) -> Tensors:
    return {"s": draw.normal(size, 2.0), "y": draw.classes(*size), "aim": draw.classes(*size)}


def _responding(draw: Draw, size: Size) -> Tensors:
    return _networks(draw, size) | {"s-": draw.normal(size), "t-": draw.normal(size)}


def _activated(draw: Draw, size: Size) -> Tensors:
    # Of the teacher's pre-activations a tenth are exactly zero.
    return {"s": draw.normal(size, 1.5), "t": draw.gradient(size)}


def _triplets(p: float) -> Callable[[Draw, Size], Tensors]:
    """Features whose distances in the p-norm are of order 1, whatever their number: a long sum would hide its error."""

    def make(draw: Draw, size: Size) -> Tensors:
        scale = size[1] ** (-1 / p)
        return {name: draw.normal(size, scale * spread) for name, spread in (("a", 1.0), ("p", 1.2), ("n", 1.3))}

    return make


def _margins(most: float, make: Callable[[Draw, Size], Tensors]) -> Callable[[Draw, Size], Tensors]:
    return lambda draw, size: make(draw, size) | {"m": draw.positive(size[0], most) + 1 / 64}


def _embedded(draw: Draw, size: Size) -> Tensors:
    samples, features = size
    return {"s": draw.normal(size, 2.0), "t": draw.normal((samples, features + 3), 0.1)}


def _weighted(make: Callable[[Draw, Size], Tensors]) -> Callable[[Draw, Size], Tensors]:
    return lambda draw, size: make(draw, size) | {"w": draw.positive(size[0], 3.0)}


def _stored(draw: Draw, size: Size) -> Tensors:
    # Gradients are stored in the accumulation precision, whatever they are rounded to.
    wide = Draw(torch.float64 if draw.dtype == torch.float64 else torch.float32)
    return {"g": wide.normal(size), "f": wide.normal(size[:1])}


def _writable(x: Tensor) -> Tensor:
    """A copy of ``x`` in a layout that can be changed in place."""
    return _dense(x.clone())


def _dense(x: Tensor) -> Tensor:
    """``x`` contiguous or channels_last."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return x if dense else x.contiguous()


def _images(name: str, op: str, kind: str, make: Any, call: Any) -> Case:
    return Case(name, op, kind, "images", make, call, exact=kind == "linf")


def _mixture(name: str, call: Any) -> Case:
    return Case(name, "mix", "mix", "images", _mixing, call, ("x",), exact=True)


def _momentum(name: str, kind: str, keywords: dict[str, Any], make: Any = _gathering) -> list[Case]:
    """The iterates and the momentum, each a case."""

    def call(library: Any, t: Tensors) -> tuple[Tensor, Tensor]:
        per_sample = {"eps": t["eps"], "step_size": t["step"]} if "eps" in t else {}
        return library.momentum_step(t["x"], t["grad"], t["m"], t["x0"], **(keywords | per_sample))

    def moved(library: Any, t: Tensors) -> Tensor:
        return call(library, t)[0]

    def gathered(library: Any, t: Tensors) -> Tensor:
        return call(library, t)[1]

    return [
        Case(name, "momentum_step", kind, "images", make, moved, phi=gathered if kind == "linf" else None),
        Case(f"{name}-momentum", "momentum_step", "momentum", "images", make, gathered),
    ]


def _stein(name: str, keywords: dict[str, Any], make: Any = _particles) -> Case:
    def call(library: Any, t: Tensors, **changes: Any) -> Tensor:
        per_image = {"eps": t["eps"], "step_size": t["step"]} if "eps" in t else {}
        return library.svgd_step(t["x"], t["score"], t["x0"], **(keywords | per_image | changes))

    def phi(library: Any, t: Tensors) -> Tensor:
        return call(library, t, eps=math.inf, step_size=1.0, bounds=None, update="raw", norm="linf") - t["x"]

    signed = keywords.get("update", "sign") == "sign"
    return Case(name, "svgd_step", "svgd", "particles", make, call, phi=phi if signed else None)


def _loss(
    name: str, op: str, make: Any, call: Any, differentiable: tuple[str, ...] = ("s", "t"), sizes: str = "logits"
) -> Case:
    return Case(name, op, "loss", sizes, make, call, differentiable)


def _triplet(name: str, keywords: dict[str, Any], most: float | None = None) -> Case:
    """``most``: the largest of the margins, one a triplet."""

    def call(library: Any, t: Tensors) -> Tensor:
        margins = {"margin": t["m"]} if "m" in t else {}
        return library.triplet_margin_loss(t["a"], t["p"], t["n"], **keywords, **margins)

    make = _triplets(keywords.get("p", 2.0))
    make = make if most is None else _margins(most, make)
    return Case(name, "triplet_margin_loss", "metric", "logits", make, call, ("a", "p", "n"))


def _relational(name: str, **weights: float) -> Case:
    return Case(
        name, "rkd_loss", "rkd", "relations", _embedded, lambda f, t: f.rkd_loss(t["s"], t["t"], **weights), ("s",)
    )


_LINF = {"eps": 8 / 255}
_L2 = {"eps": 0.5, "norm": "l2"}
_L1 = {"eps": 2.0, "norm": "l1"}
_UNBOUNDED = {"norm": "l2", "bounds": None}
_SIGNED = {"eps": 8 / 255, "step_size": 2 / 255}

CASES = (
    _images("project-linf", "project", "linf", _displaced, lambda f, t: f.project(t["x"], t["x0"], **_LINF)),
    _images(
        "project-linf-sequential",
        "project",
        "linf",
        _displaced,
        lambda f, t: f.project(t["x"], t["x0"], mode="sequential", **_LINF),
    ),
    _images(
        "project-linf-per-sample",
        "project",
        "linf",
        _radii(0.1, _displaced),
        lambda f, t: f.project(t["x"], t["x0"], eps=t["eps"], bounds=(0.1, 0.7)),
    ),
    _images("project-l2", "project", "l2", _displaced, lambda f, t: f.project(t["x"], t["x0"], **_L2)),
    _images(
        "project-l2-sequential",
        "project",
        "l2",
        _displaced,
        lambda f, t: f.project(t["x"], t["x0"], mode="sequential", **_L2),
    ),
    _images(
        "project-l2-per-sample",
        "project",
        "l2",
        _radii(2.0, _displaced),
        lambda f, t: f.project(t["x"], t["x0"], eps=t["eps"], **_UNBOUNDED),
    ),
    _images("project-l1", "project", "l1", _displaced, lambda f, t: f.project(t["x"], t["x0"], **_L1)),
    _images(
        "project-l1-sequential",
        "project",
        "l1",
        _displaced,
        lambda f, t: f.project(t["x"], t["x0"], mode="sequential", **_L1),
    ),
    _images(
        "project-l1-per-sample",
        "project",
        "l1",
        _radii(9.0, _displaced),
        lambda f, t: f.project(t["x"], t["x0"], eps=t["eps"], norm="l1", bounds=(0.1, math.inf)),
    ),
    _images("random_start-linf", "random_start", "linf", _centred, lambda f, t: f.random_start(t["x0"], **_LINF)),
    _images(
        "random_start-linf-identified",
        "random_start",
        "linf",
        _identified,
        lambda f, t: f.random_start(t["x0"], eps=t["eps"], seed=t["seed"], sample_ids=t["ids"], bounds=None),
    ),
    _images("random_start-l2", "random_start", "noise", _centred, lambda f, t: f.random_start(t["x0"], seed=5, **_L2)),
    _images(
        "random_start-l2-identified",
        "random_start",
        "noise",
        _identified,
        lambda f, t: f.random_start(t["x0"], eps=t["eps"], seed=t["seed"], sample_ids=t["ids"], **_UNBOUNDED),
    ),
    _images("random_start-l1", "random_start", "noise", _centred, lambda f, t: f.random_start(t["x0"], seed=5, **_L1)),
    _images(
        "random_start-l1-identified",
        "random_start",
        "noise",
        _identified,
        lambda f, t: f.random_start(t["x0"], eps=t["eps"], norm="l1", seed=t["seed"], sample_ids=t["ids"], bounds=None),
    ),
    _images(
        "pgd_step-linf",
        "pgd_step",
        "linf",
        _stepping,
        lambda f, t: f.pgd_step(t["x"], t["grad"], t["x0"], step_size=2 / 255, **_LINF),
    ),
    _images(
        "pgd_step-linf-sequential",
        "pgd_step",
        "linf",
        _stepping,
        lambda f, t: f.pgd_step(t["x"], t["grad"], t["x0"], step_size=2 / 255, mode="sequential", **_LINF),
    ),
    _images(
        "pgd_step-linf-per-sample",
        "pgd_step",
        "linf",
        _radii_and_steps(0.1, _stepping),
        lambda f, t: f.pgd_step(t["x"], t["grad"], t["x0"], eps=t["eps"], step_size=t["step"], bounds=None),
    ),
    _images(
        "pgd_step-l2",
        "pgd_step",
        "l2",
        _stepping,
        lambda f, t: f.pgd_step(t["x"], t["grad"], t["x0"], step_size=1.0, **_L2),
    ),
    _images(
        "pgd_step-l2-per-sample",
        "pgd_step",
        "l2",
        _radii_and_steps(1.0, _stepping),
        lambda f, t: f.pgd_step(t["x"], t["grad"], t["x0"], eps=t["eps"], step_size=t["step"], norm="l2"),
    ),
    _images(
        "pgd_step-l1",
        "pgd_step",
        "l1",
        _stepping,
        lambda f, t: f.pgd_step(t["x"], t["grad"], t["x0"], step_size=1.0, **_L1),
    ),
    _images(
        "pgd_step-l1-per-sample",
        "pgd_step",
        "l1",
        _radii_and_steps(4.0, _stepping),
        lambda f, t: f.pgd_step(
            t["x"],
            t["grad"],
            t["x0"],
            eps=t["eps"],
            step_size=t["step"],
            norm="l1",
            l1_fraction=0.95,
            mode="sequential",
        ),
    ),
    _images(
        "pgd_step_-linf",
        "pgd_step_",
        "linf",
        _stepping,
        lambda f, t: f.pgd_step_(_writable(t["x"]), t["grad"], t["x0"], step_size=-2 / 255, **_LINF),
    ),
    _images(
        "pgd_step_-l2",
        "pgd_step_",
        "l2",
        _radii_and_steps(1.0, _stepping),
        lambda f, t: f.pgd_step_(_writable(t["x"]), t["grad"], t["x0"], eps=t["eps"], step_size=t["step"], norm="l2"),
    ),
    _images(
        "pgd_step_-l1",
        "pgd_step_",
        "l1",
        _stepping,
        lambda f, t: f.pgd_step_(_writable(t["x"]), t["grad"], t["x0"], step_size=-1.0, l1_fraction=0.3, **_L1),
    ),
    *_momentum("momentum_step-linf", "linf", _SIGNED),
    *_momentum(
        "momentum_step-linf-per-sample", "linf", {"decay": 0.7, "bounds": None}, _radii_and_steps(0.1, _gathering)
    ),
    *_momentum("momentum_step-l2", "l2", {**_L2, "step_size": 1.0}),
    *_momentum("momentum_step-l1", "l1", {**_L1, "step_size": 1.0, "l1_fraction": 0.2}),
    *_momentum("momentum_step-l2-per-sample", "l2", {"decay": -0.5, "norm": "l2"}, _radii_and_steps(1.0, _gathering)),
    _images(
        "bss_step", "bss_step", "l2", _approaching, lambda f, t: f.bss_step(t["x"], t["grad"], t["gap"], t["active"])
    ),
    _images(
        "bss_step-per-sample",
        "bss_step",
        "l2",
        _radii_and_steps(1.0, _approaching),
        lambda f, t: f.bss_step(t["x"], t["grad"], t["gap"], t["active"], step_size=t["step"], bounds=(0.1, 0.7)),
    ),
    _mixture("mix", lambda f, t: f.mix(t["x"], 0.3, t["p"])),
    _mixture("mix-per-sample", lambda f, t: f.mix(t["x"], t["lam"], t["p"])),
    # Called as it is, so in a dense layout.
    _images(
        "mix_backward",
        "mix_backward",
        "mix",
        _mixing,
        lambda f, t: f.mix_backward(_dense(t["x"]), 0.0, t["p"].contiguous(), t["lam"].contiguous()),
    ),
    _stein("svgd_step-sign", _SIGNED),
    _stein("svgd_step-sign-rms", {"score_scale": "rms", "norm": "l2"}, _radii_and_steps(0.5, _particles)),
    _stein("svgd_step-l2", {**_L2, "step_size": 0.2, "update": "l2", "score_scale": "rms"}),
    _stein("svgd_step-l1", {**_L1, "step_size": 0.2, "update": "raw"}),
    _stein("svgd_step-raw", {"eps": 0.3, "step_size": 0.1, "update": "raw", "bandwidth": 0.2, "score_scale": 0.7}),
    _loss("kl_distill", "kl_distill", _networks, lambda f, t: f.kl_distill(t["s"], t["t"], temperature=4.0)),
    _loss(
        "kl_distill-none",
        "kl_distill",
        _weighted(_networks),
        lambda f, t: f.kl_distill(t["s"], t["t"], weight=t["w"], reduction="none"),
    ),
    _loss(
        "kl_distill-mean",
        "kl_distill",
        _weighted(_networks),
        lambda f, t: f.kl_distill(t["s"], t["t"], weight=t["w"], reduction="mean"),
    ),
    _loss("kd_loss", "kd_loss", _labelled, lambda f, t: f.kd_loss(t["s"], t["t"], t["y"])),
    _loss(
        "kd_loss-none",
        "kd_loss",
        _weighted(_labelled),
        lambda f, t: f.kd_loss(t["s"], t["t"], t["y"], temperature=1.5, alpha=0.3, weight=t["w"], reduction="none"),
    ),
    _loss("js_distill", "js_distill", _networks, lambda f, t: f.js_distill(t["s"], t["t"], temperature=3.0)),
    _loss(
        "js_distill-mean",
        "js_distill",
        _weighted(_networks),
        lambda f, t: f.js_distill(t["s"], t["t"], weight=t["w"], reduction="mean"),
    ),
    _loss("dkd_loss", "dkd_loss", _labelled, lambda f, t: f.dkd_loss(t["s"], t["t"], t["y"]), sizes="odds"),
    _loss(
        "dkd_loss-none",
        "dkd_loss",
        _weighted(_labelled),
        lambda f, t: f.dkd_loss(t["s"], t["t"], t["y"], alpha=2.0, beta=0.5, weight=t["w"], reduction="none"),
        sizes="odds",
    ),
    _loss(
        "igdm_loss",
        "igdm_loss",
        _weighted(_responding),
        lambda f, t: f.igdm_loss(t["s"], t["s-"], t["t"], t["t-"], weight=t["w"]),
        ("s", "s-", "t", "t-"),
    ),
    _loss("loss_matching", "loss_matching", _labelled, lambda f, t: f.loss_matching(t["s"], t["t"], t["y"])),
    _loss(
        "loss_matching-sum",
        "loss_matching",
        _weighted(_labelled),
        lambda f, t: f.loss_matching(t["s"], t["t"], t["y"], weight=t["w"], reduction="sum"),
    ),
    _loss(
        "activation_boundary_loss",
        "activation_boundary_loss",
        _activated,
        lambda f, t: f.activation_boundary_loss(t["s"], t["t"]),
        ("s",),
        "features",
    ),
    _loss(
        "activation_boundary_loss-none",
        "activation_boundary_loss",
        _margins(2.0, _activated),
        lambda f, t: f.activation_boundary_loss(t["s"], t["t"], margin=t["m"], reduction="none"),
        ("s",),
        "features",
    ),
    _triplet("triplet_margin_loss", {}),
    _triplet("triplet_margin_loss-none", {"swap": True, "reduction": "none"}, most=0.2),
    _triplet("triplet_margin_loss-l1", {"p": 1.0, "swap": True, "reduction": "sum"}),
    _triplet("triplet_margin_loss-linf", {"p": math.inf, "eps": 1e-2, "swap": True, "reduction": "none"}, most=0.2),
    _triplet("triplet_margin_loss-l3", {"p": 3.0, "eps": 1e-4, "reduction": "none"}, most=0.2),
    _relational("rkd_loss"),
    _relational("rkd_loss-distances", distance_weight=2.0, angle_weight=0.0),
    _relational("rkd_loss-angles", distance_weight=0.0, angle_weight=-3.0),
    _loss("attack_loss-ce", "attack_loss", _labelled, lambda f, t: f.attack_loss(t["s"], t["y"]), ("s",)),
    _loss(
        "attack_loss-kl-targeted",
        "attack_loss",
        _networks,
        lambda f, t: f.attack_loss(t["s"], kind="kl", reference=t["t"], targeted=True),
        ("s",),
    ),
    _loss(
        "attack_loss-cw",
        "attack_loss",
        _labelled,
        lambda f, t: f.attack_loss(t["s"], t["y"], kind="cw"),
        ("s",),
        "odds",
    ),
    _loss(
        "attack_loss-cw-targeted",
        "attack_loss",
        _labelled,
        lambda f, t: f.attack_loss(t["s"], t["y"], kind="cw", targeted=True),
        ("s",),
        "ranks",
    ),
    _loss(
        "attack_loss-dlr",
        "attack_loss",
        _labelled,
        lambda f, t: f.attack_loss(t["s"], t["y"], kind="dlr"),
        ("s",),
        "ranks",
    ),
    _loss(
        "attack_loss-dlr-targeted",
        "attack_loss",
        _misled,
        lambda f, t: f.attack_loss(t["s"], t["aim"], kind="dlr", reference=t["y"], targeted=True),
        ("s",),
        "ranks",
    ),
    Case(
        "scale_grad-per-sample",
        "scale_grad",
        "scale",
        "logits",
        _stored,
        lambda f, t: f.scale_grad(t["g"].contiguous(), t["f"].contiguous(), t["g"].dtype),
    ),
    Case(
        "scale_grad-one",
        "scale_grad",
        "scale",
        "logits",
        _stored,
        lambda f, t: f.scale_grad(t["g"].contiguous(), t["f"][:1].sum(), t["g"].dtype),
    ),
)
