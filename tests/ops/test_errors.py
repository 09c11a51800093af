"""Bad calls: the exception each gets, and that its message names the argument, what came and what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastadv

NAN, INF = math.nan, math.inf
X, X0, G = torch.rand(2, 3, 4), torch.rand(2, 3, 4), torch.randn(2, 3, 4)
GAP, ACTIVE, ORDER = torch.rand(2), torch.tensor([True, False]), torch.tensor([1, 0])
PARTICLES, SCORE = torch.rand(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
S, T, Y = torch.randn(2, 6), torch.randn(2, 6), torch.tensor([1, 5])
META = torch.rand(2, 3, 4, device="meta")
LEARNING = torch.rand(2, 3, 4, requires_grad=True)


def project(x: Any = X, x0: Any = X0, **keywords: Any) -> Any:
    return fastadv.project(x, x0, **({"eps": 0.1} | keywords))


def start(x0: Any = X0, **keywords: Any) -> Any:
    return fastadv.random_start(x0, **({"eps": 0.1} | keywords))


def step(x: Any = X, grad: Any = G, x0: Any = X0, **keywords: Any) -> Any:
    return fastadv.pgd_step(x, grad, x0, **({"eps": 0.1, "step_size": 0.1} | keywords))


def step_(x: Any, grad: Any = G, x0: Any = X0, **keywords: Any) -> Any:
    return fastadv.pgd_step_(x, grad, x0, **({"eps": 0.1, "step_size": 0.1} | keywords))


def momentum(x: Any = X, grad: Any = G, m: Any = G, x0: Any = X0, **keywords: Any) -> Any:
    return fastadv.momentum_step(x, grad, m, x0, **({"eps": 0.1, "step_size": 0.1} | keywords))


def bss(x: Any = X, grad: Any = G, gap: Any = GAP, active: Any = ACTIVE, **keywords: Any) -> Any:
    return fastadv.bss_step(x, grad, gap, active, **keywords)


def mix(x: Any = X, lam: Any = 0.5, permutation: Any = ORDER) -> Any:
    return fastadv.mix(x, lam, permutation)


def stein(particles: Any = PARTICLES, score: Any = SCORE, x0: Any = X0, **keywords: Any) -> Any:
    return fastadv.svgd_step(particles, score, x0, **({"eps": 0.1, "step_size": 0.1} | keywords))


def kl(student: Any = S, teacher: Any = T, **keywords: Any) -> Any:
    return fastadv.kl_distill(student, teacher, **keywords)


def kd(student: Any = S, teacher: Any = T, target: Any = Y, **keywords: Any) -> Any:
    return fastadv.kd_loss(student, teacher, target, **keywords)


def dkd(student: Any = S, teacher: Any = T, target: Any = Y, **keywords: Any) -> Any:
    return fastadv.dkd_loss(student, teacher, target, **keywords)


def matching(student: Any = S, teacher: Any = T, target: Any = Y, **keywords: Any) -> Any:
    return fastadv.loss_matching(student, teacher, target, **keywords)


def rkd(student: Any = S, teacher: Any = T, **keywords: Any) -> Any:
    return fastadv.rkd_loss(student, teacher, **keywords)


def attack(logits: Any = S, target: Any = Y, **keywords: Any) -> Any:
    return fastadv.attack_loss(logits, target, **keywords)


def margin(target: Any = Y) -> Any:
    return fastadv.attack_loss(S, target, kind="cw")


def towards(logits: Any = S, target: Any = Y, reference: Any = Y) -> Any:
    return fastadv.attack_loss(logits, target, kind="dlr", reference=reference, targeted=True)


def boundary(student: Any = X, teacher: Any = X0, **keywords: Any) -> Any:
    return fastadv.activation_boundary_loss(student, teacher, **keywords)


def plane(x: Any = X, normal: Any = G, offset: Any = GAP, **keywords: Any) -> Any:
    return fastadv.project_hyperplane(x, normal, offset, **keywords)


def square(x: Any = PARTICLES, x0: Any = PARTICLES, query: Any = ORDER, **keywords: Any) -> Any:
    return fastadv.square_propose(x, x0, query, **({"eps": 0.1} | keywords))


Bad = tuple[str, Callable[[], Any], type[Exception], str]

# What is refused, the call, the exception, and what its message says.
BAD: list[Bad] = [
    ("sparse logits", lambda: kl(S.to_sparse()), TypeError, "student must be a dense tensor, got one of layout"),
    ("sparse images", lambda: step(X, X0.to_sparse()), TypeError, "grad must be a dense tensor, got one of layout"),
    ("in place nothing", lambda: step_(None), TypeError, "x must be a tensor, got NoneType"),
    ("smoothing of each sample", lambda: kd(label_smoothing=GAP), TypeError, "label_smoothing must be a float"),
    ("a number beyond floats", lambda: step(step_size=10**400), ValueError, "step_size must be a float, got 1000"),
    ("boundary integers", lambda: boundary(X.int()), TypeError, "student must be float64, .* got torch.int32"),
    ("boundary of one dimension", lambda: boundary(X[0, 0]), ValueError, r"student must have shape \[N, ...\].*\[4\]"),
    ("boundary teacher", lambda: boundary(X, X0.long()), TypeError, "teacher must be float64, .* got torch.int64"),
    ("boundary batch", lambda: boundary(X, X0[:1]), ValueError, r"teacher must have the shape of .*\[1, 3, 4\]"),
    ("boundary elsewhere", lambda: boundary(X, META), ValueError, "teacher must be on the device of student, cpu"),
    ("boundary of a teacher that learns", lambda: boundary(X, LEARNING), ValueError, "teacher requires grad, but no"),
    ("negative margin", lambda: boundary(margin=-0.1), ValueError, "margin must not be negative, got -0.1"),
    ("margin nan", lambda: boundary(margin=NAN), ValueError, "margin must be a number, got nan"),
    ("margin of more", lambda: boundary(margin=torch.ones(3)), ValueError, r"margin must .*\[2\], got \[3\]"),
    ("margin negative in one", lambda: boundary(margin=torch.tensor([1.0, -1])), ValueError, "margin must be .*-1.0"),
    ("boundary unknown reduction", lambda: boundary(reduction="all"), ValueError, "reduction must be .* got 'all'"),
    ("dkd of one class", lambda: fastadv.dkd_loss(S[:, :1], T[:, :1], Y), ValueError, "C of at least 2"),
    ("dkd beta nan", lambda: fastadv.dkd_loss(S, T, Y, beta=NAN), ValueError, "beta must be a number, got nan"),
    ("igdm batch", lambda: fastadv.igdm_loss(S, S[:1], T, T), ValueError, "student_minus must have the shape of"),
    ("igdm integers", lambda: fastadv.igdm_loss(S, S, T, T.int()), TypeError, "teacher_minus must be float64"),
    ("js temperature", lambda: fastadv.js_distill(S, T, temperature=0.0), ValueError, "temperature must be positive"),
    ("x is no tensor", lambda: project([1.0]), TypeError, "x must be a tensor, got list"),
    ("x of integers", lambda: project(X.int()), TypeError, "x must be float64, .* got torch.int32"),
    ("x0 of integers", lambda: project(X, X0.long()), TypeError, "x0 must be float64, .* got torch.int64"),
    ("x0 is no tensor", lambda: project(X, None), TypeError, "x0 must be a tensor, got NoneType"),
    ("complex x", lambda: project(X.to(torch.complex64)), TypeError, "x must be float64, .* got torch.complex64"),
    ("x of one dimension", lambda: project(X[0, 0], X0[0, 0]), ValueError, r"x must have shape \[N, ...\].*\[4\]"),
    ("x0 of another shape", lambda: project(X, X0[:1]), ValueError, r"x0 must have the shape of x, .*\[1, 3, 4\]"),
    ("x0 on another device", lambda: project(X, META), ValueError, "x0 must be on the device of x, cpu, got"),
    ("negative eps", lambda: project(eps=-0.1), ValueError, "eps must not be negative, got -0.1"),
    ("eps nan", lambda: project(eps=NAN), ValueError, "eps must be a number, got nan"),
    ("eps a bool", lambda: project(eps=True), TypeError, "eps must be a float, got bool"),
    ("eps a string", lambda: project(eps="8/255"), TypeError, "eps must be a float, got str"),
    ("eps none", lambda: project(eps=None), TypeError, "eps must be a float, got NoneType"),
    ("eps below zero, no dimension", lambda: project(eps=torch.tensor(-0.1)), ValueError, "eps must be at least 0.0"),
    ("eps of another batch", lambda: project(eps=torch.ones(3)), ValueError, r"eps must .*\[2\], got \[3\]"),
    ("eps of integers", lambda: project(eps=torch.ones(2).int()), TypeError, "eps must be float64, .* torch.int32"),
    ("eps elsewhere", lambda: project(eps=META[:, 0, 0]), ValueError, "eps must be on the device .*cpu, got meta"),
    ("eps nan in one sample", lambda: project(eps=torch.tensor([0.1, NAN])), ValueError, "eps must be .* got nan"),
    ("eps negative in one", lambda: project(eps=torch.tensor([0.1, -1.0])), ValueError, "eps must be .* got -1.0"),
    ("eps wanting grad", lambda: project(eps=torch.ones(2).requires_grad_()), ValueError, "eps requires grad"),
    ("unknown norm", lambda: project(norm="l3"), ValueError, "norm must be one of 'linf', 'l2', 'l1', got 'l3'"),
    ("a norm as a number", lambda: project(norm=2), ValueError, "norm must be one of .*, got 2"),
    ("a norm that cannot be hashed", lambda: project(norm=[2]), ValueError, r"norm must be one of .*, got \[2\]"),
    ("unknown mode", lambda: project(mode="fast"), ValueError, "mode must be one of 'exact', 'sequential', got 'fast'"),
    ("bounds reversed", lambda: project(bounds=(1.0, 0.0)), ValueError, r"bounds .*low <= high, got \(1.0, 0.0\)"),
    ("bounds nan", lambda: project(bounds=(NAN, 1.0)), ValueError, r"bounds\[0\] must be a number, got nan"),
    ("one bound", lambda: project(bounds=1.0), TypeError, "bounds must be None or a pair of floats, got 1.0"),
    ("three bounds", lambda: project(bounds=(0, 1, 2)), TypeError, "bounds must be None or a pair of floats"),
    ("bounds of strings", lambda: project(bounds=("0", "1")), TypeError, r"bounds\[0\] must be a float, got str"),
    ("bounds of tensors", lambda: project(bounds=torch.tensor([0.0, 1])), TypeError, r"bounds\[0\] must .* Tensor"),
    ("start x0 of integers", lambda: start(X0.int()), TypeError, "x0 must be float64, .* got torch.int32"),
    ("start x0 of one dimension", lambda: start(X0[0, 0]), ValueError, r"x0 must have shape .* got \[4\]"),
    ("start negative eps", lambda: start(eps=-1.0), ValueError, "eps must not be negative, got -1.0"),
    ("start unknown norm", lambda: start(norm="l1000"), ValueError, "norm must be one of .* got 'l1000'"),
    ("seed a float", lambda: start(seed=1.5), TypeError, "seed must be an int or an int64 tensor, got float"),
    ("seed a bool", lambda: start(seed=True), TypeError, "seed must be an int or an int64 tensor, got bool"),
    ("seed none", lambda: start(seed=None), TypeError, "seed must be an int or an int64 tensor, got NoneType"),
    ("seed too large", lambda: start(seed=2**64), ValueError, "seed must fit in 64 bits, got 18446744073709551616"),
    ("seed too small", lambda: start(seed=-(2**63) - 1), ValueError, "seed must fit in 64 bits, got -"),
    ("seed of int32", lambda: start(seed=torch.tensor(1).int()), TypeError, "seed must be an int64 tensor, .*int32"),
    ("seed of one dimension", lambda: start(seed=torch.tensor([1])), ValueError, r"seed must .*\[\], got \[1\]"),
    ("seed elsewhere", lambda: start(seed=torch.tensor(1, device="meta")), ValueError, "seed must .*cpu, got meta"),
    ("sample_ids a list", lambda: start(sample_ids=[0, 1]), TypeError, "sample_ids must be an int64 tensor, got list"),
    ("sample_ids of int32", lambda: start(sample_ids=torch.arange(2).int()), TypeError, "sample_ids must be .*int32"),
    ("sample_ids of more", lambda: start(sample_ids=torch.arange(3)), ValueError, r"sample_ids .*\[2\], got \[3\]"),
    ("grad of integers", lambda: step(grad=G.int()), TypeError, "grad must be float64, .* got torch.int32"),
    ("grad none", lambda: step(grad=None), TypeError, "grad must be a tensor, got NoneType"),
    ("grad of another shape", lambda: step(grad=G[:, :2]), ValueError, r"grad must have the shape of x, .*\[2, 2, 4\]"),
    ("grad on another device", lambda: step(grad=META), ValueError, "grad must be on the device of x, cpu, got meta"),
    ("step x0 of another shape", lambda: step(x0=X0[0]), ValueError, r"x0 must have the shape of x, .*\[3, 4\]"),
    ("step_size nan", lambda: step(step_size=NAN), ValueError, "step_size must be a number, got nan"),
    ("step_size a bool", lambda: step(step_size=False), TypeError, "step_size must be a float, got bool"),
    ("step_size nan in one", lambda: step(step_size=torch.tensor([NAN, 1.0])), ValueError, "step_size must .* got nan"),
    ("step_size of fewer", lambda: step(step_size=torch.ones(1)), ValueError, r"step_size must .*\[2\], got \[1\]"),
    ("step negative eps", lambda: step(eps=-0.1), ValueError, "eps must not be negative, got -0.1"),
    ("step unknown norm", lambda: step(norm="inf"), ValueError, "norm must be one of .* got 'inf'"),
    ("step unknown mode", lambda: step(mode=""), ValueError, "mode must be one of .* got ''"),
    ("l1_fraction zero", lambda: step(l1_fraction=0.0), ValueError, r"l1_fraction must lie in \(0, 1\], got 0.0"),
    ("l1_fraction above one", lambda: step(l1_fraction=1.5), ValueError, r"l1_fraction must lie in \(0, 1\], got 1.5"),
    ("l1_fraction nan", lambda: step(l1_fraction=NAN), ValueError, "l1_fraction must be a number, got nan"),
    ("l1_fraction a tensor", lambda: step(l1_fraction=torch.ones(2)), TypeError, "l1_fraction must be .*got Tensor"),
    ("step_ l1_fraction", lambda: step_(X.clone(), l1_fraction=-1), ValueError, "l1_fraction must lie in .* got -1"),
    ("step_ on a leaf", lambda: step_(torch.rand(2, 3, 4, requires_grad=True)), ValueError, "x requires grad"),
    ("momentum of integers", lambda: momentum(m=G.int()), TypeError, "momentum must be float64, .* got torch.int32"),
    ("momentum none", lambda: momentum(m=None), TypeError, "momentum must be a tensor, got NoneType"),
    ("momentum of another shape", lambda: momentum(m=G[:1]), ValueError, r"momentum must have .*\[1, 3, 4\]"),
    ("momentum elsewhere", lambda: momentum(m=META), ValueError, "momentum must be on the device of x, cpu, got meta"),
    ("momentum x of one dimension", lambda: momentum(X[0, 0]), ValueError, r"x must have shape \[N, ...\].*\[4\]"),
    ("momentum grad of integers", lambda: momentum(grad=G.int()), TypeError, "grad must be float64"),
    ("momentum x0 elsewhere", lambda: momentum(x0=META), ValueError, "x0 must be on the device of x, cpu, got"),
    ("momentum negative eps", lambda: momentum(eps=-0.1), ValueError, "eps must not be negative, got -0.1"),
    ("momentum step_size nan", lambda: momentum(step_size=NAN), ValueError, "step_size must be a number, got nan"),
    ("momentum unknown norm", lambda: momentum(norm="l0"), ValueError, "norm must be one of .* got 'l0'"),
    ("decay nan", lambda: momentum(decay=NAN), ValueError, "decay must be a number, got nan"),
    ("decay a tensor", lambda: momentum(decay=GAP), TypeError, "decay must be a float, got Tensor"),
    ("bss x of integers", lambda: bss(X.int()), TypeError, "x must be float64, .* got torch.int32"),
    ("bss grad of another shape", lambda: bss(grad=G[0]), ValueError, r"grad must have the shape of x, .*\[3, 4\]"),
    ("gap of integers", lambda: bss(gap=GAP.int()), TypeError, "gap must be float64, .* got torch.int32"),
    ("gap a float", lambda: bss(gap=0.5), TypeError, "gap must be a tensor, got float"),
    ("gap of another batch", lambda: bss(gap=torch.ones(3)), ValueError, r"gap must have shape \[2\], got \[3\]"),
    ("gap elsewhere", lambda: bss(gap=GAP.to("meta")), ValueError, "gap must be on device cpu, got meta"),
    ("active of floats", lambda: bss(active=GAP), TypeError, "active must be a bool tensor, got torch.float32"),
    ("active a bool", lambda: bss(active=True), TypeError, "active must be a bool tensor, got bool"),
    ("active of fewer", lambda: bss(active=ACTIVE[:1]), ValueError, r"active must have shape \[2\], got \[1\]"),
    ("bss step_size nan", lambda: bss(step_size=NAN), ValueError, "step_size must be a number, got nan"),
    ("bss step_size of more", lambda: bss(step_size=torch.ones(3)), ValueError, r"step_size .*\[2\], got \[3\]"),
    ("bss bounds reversed", lambda: bss(bounds=(1.0, 0.0)), ValueError, r"bounds .*low <= high, got \(1.0, 0.0\)"),
    ("mix of integers", lambda: mix(X.int()), TypeError, "x must be float64, .* got torch.int32"),
    ("mix of one dimension", lambda: mix(X[0, 0]), ValueError, r"x must have shape \[N, ...\].*\[4\]"),
    ("lam nan", lambda: mix(lam=NAN), ValueError, "lam must be a number, got nan"),
    ("lam a string", lambda: mix(lam="0.5"), TypeError, "lam must be a float, got str"),
    ("lam of another batch", lambda: mix(lam=torch.ones(3)), ValueError, r"lam must .*\[2\], got \[3\]"),
    ("lam wanting grad", lambda: mix(lam=torch.ones(2).requires_grad_()), ValueError, "lam requires grad"),
    ("permutation a list", lambda: mix(permutation=[1, 0]), TypeError, "permutation must be an int64 tensor, got list"),
    ("permutation of int32", lambda: mix(permutation=ORDER.int()), TypeError, "permutation must be .*torch.int32"),
    ("permutation of fewer", lambda: mix(permutation=ORDER[:1]), ValueError, r"permutation .*\[2\], got \[1\]"),
    ("permutation elsewhere", lambda: mix(permutation=ORDER.to("meta")), ValueError, "permutation .*cpu, got meta"),
    ("particles of two dimensions", lambda: stein(PARTICLES[:, :, 0, 0]), ValueError, r"particles must .*\[2, 5\]"),
    ("particles of integers", lambda: stein(PARTICLES.int()), TypeError, "particles must be float64, .* torch.int32"),
    ("score of another shape", lambda: stein(score=SCORE[:, :4]), ValueError, "score must have the shape of particles"),
    ("score on another device", lambda: stein(score=SCORE.to("meta")), ValueError, "score must be on the device"),
    ("x0 as the particles", lambda: stein(x0=PARTICLES), ValueError, r"x0 must have shape \[2, 3, 4\], got \[2, 5,"),
    ("x0 of another batch", lambda: stein(x0=X0[:1]), ValueError, r"x0 must have shape \[2, 3, 4\], got \[1, 3, 4\]"),
    ("x0 elsewhere", lambda: stein(x0=META), ValueError, "x0 must be on device cpu, got meta"),
    ("eps a particle", lambda: stein(eps=torch.ones(10)), ValueError, r"eps must .*\[2\], got \[10\]"),
    ("stein negative eps", lambda: stein(eps=-0.1), ValueError, "eps must not be negative, got -0.1"),
    ("unknown update", lambda: stein(update="adam"), ValueError, "update must be .*'sign', 'l2', 'raw', got 'adam'"),
    ("bandwidth zero", lambda: stein(bandwidth=0.0), ValueError, "bandwidth must be at least 1e-18, got 0.0"),
    ("bandwidth negative", lambda: stein(bandwidth=-1), ValueError, "bandwidth must be at least 1e-18, got -1"),
    ("bandwidth too small", lambda: stein(bandwidth=1e-200), ValueError, "bandwidth must be at least 1e-18"),
    ("bandwidth nan", lambda: stein(bandwidth=NAN), ValueError, "bandwidth must be a number, got nan"),
    ("bandwidth another rule", lambda: stein(bandwidth="mean"), ValueError, "bandwidth must .*'median', got 'mean'"),
    ("bandwidth a bool", lambda: stein(bandwidth=True), TypeError, "bandwidth must be a float, got bool"),
    ("score_scale another rule", lambda: stein(score_scale="l2"), ValueError, "score_scale must .*'rms', got 'l2'"),
    ("score_scale nan", lambda: stein(score_scale=NAN), ValueError, "score_scale must be a number, got nan"),
    ("student of integers", lambda: kl(S.int()), TypeError, "student must be float64, .* got torch.int32"),
    ("student no tensor", lambda: kl(None), TypeError, "student must be a tensor, got NoneType"),
    ("student of one dimension", lambda: kl(S[0], T[0]), ValueError, r"student must have shape \[N, C\].* got \[6\]"),
    ("student of images", lambda: kl(X, X0), ValueError, r"student must have shape \[N, C\].* got \[2, 3, 4\]"),
    ("no classes", lambda: kl(S[:, :0], T[:, :0]), ValueError, r"student must .*C > 0, got \[2, 0\]"),
    ("teacher of integers", lambda: kl(S, T.int()), TypeError, "teacher must be float64, .* got torch.int32"),
    ("teacher of another batch", lambda: kl(S, T[:1]), ValueError, r"teacher must have the shape .*\[1, 6\]"),
    ("teacher of other classes", lambda: kl(S, T[:, :5]), ValueError, r"teacher must have the shape .*\[2, 5\]"),
    ("teacher on another device", lambda: kl(S, T.to("meta")), ValueError, "teacher must be on the device of student"),
    ("temperature zero", lambda: kl(temperature=0.0), ValueError, "temperature must be positive and finite, got 0.0"),
    ("temperature negative", lambda: kl(temperature=-1), ValueError, "temperature must be positive and finite, got -1"),
    ("temperature nan", lambda: kl(temperature=NAN), ValueError, "temperature must be a number, got nan"),
    ("temperature infinite", lambda: kl(temperature=INF), ValueError, "temperature must be .*finite, got inf"),
    ("temperature a bool", lambda: kl(temperature=True), TypeError, "temperature must be a float, got bool"),
    ("temperature a vector", lambda: kl(temperature=torch.ones(2)), ValueError, "temperature must be a float or a"),
    ("unknown reduction", lambda: kl(reduction="average"), ValueError, "reduction must be one of .* got 'average'"),
    ("weight of another batch", lambda: kl(weight=torch.ones(3)), ValueError, r"weight must .*\[2\], got \[3\]"),
    ("weight of integers", lambda: kl(weight=torch.ones(2).long()), TypeError, "weight must be float64, .*torch.int64"),
    ("weight a list", lambda: kl(weight=[1.0, 2.0]), TypeError, "weight must be a float, got list"),
    ("weight elsewhere", lambda: kl(weight=torch.ones(2, device="meta")), ValueError, "weight must be on the device"),
    ("alpha nan", lambda: kd(alpha=NAN), ValueError, "alpha must be a number, got nan"),
    ("alpha a bool", lambda: kd(alpha=True), TypeError, "alpha must be a float, got bool"),
    ("kd temperature zero", lambda: kd(temperature=0), ValueError, "temperature must be positive and finite, got 0"),
    ("kd unknown reduction", lambda: kd(reduction=None), ValueError, "reduction must be one of .* got None"),
    ("kd student of integers", lambda: kd(S.long()), TypeError, "student must be float64"),
    ("kd teacher of other classes", lambda: kd(S, T[:, :2]), ValueError, "teacher must have the shape of student"),
    ("matching of integers", lambda: matching(S.int()), TypeError, "student must be float64"),
    ("matching of other classes", lambda: matching(S, T[:, :2]), ValueError, "teacher must have the shape of student"),
    ("matching unknown reduction", lambda: matching(reduction="max"), ValueError, "reduction must be .* got 'max'"),
    ("features of integers", lambda: rkd(S.int()), TypeError, "student must be float64, .* got torch.int32"),
    ("features of one dimension", lambda: rkd(S[0]), ValueError, r"student must have shape \[B, D\].* got \[6\]"),
    ("no features", lambda: rkd(S[:, :0]), ValueError, r"student must have .* D > 0, got \[2, 0\]"),
    ("features of images", lambda: rkd(S, X), ValueError, r"teacher must have shape \[B, D\].* got \[2, 3, 4\]"),
    ("rkd teacher no tensor", lambda: rkd(S, None), TypeError, "teacher must be a tensor, got NoneType"),
    ("rkd teacher of another batch", lambda: rkd(S, T[:1]), ValueError, r"teacher must have the batch .*2, got \[1, 6"),
    ("rkd teacher elsewhere", lambda: rkd(S, T.to("meta")), ValueError, "teacher must be on the device of student"),
    ("rkd teacher wanting grad", lambda: rkd(S, T.clone().requires_grad_()), ValueError, "teacher requires .* detach"),
    ("distance_weight nan", lambda: rkd(distance_weight=NAN), ValueError, "distance_weight must be a number, got nan"),
    ("angle_weight a bool", lambda: rkd(angle_weight=True), TypeError, "angle_weight must be a float, got bool"),
    ("logits of integers", lambda: attack(S.int()), TypeError, "logits must be float64, .* got torch.int32"),
    ("logits of one dimension", lambda: attack(S[0]), ValueError, r"logits must have shape \[N, C\].* got \[6\]"),
    ("unknown kind", lambda: attack(kind="hinge"), ValueError, "kind must be one of 'ce', 'kl'.*, got 'hinge'"),
    ("no target", lambda: attack(target=None), TypeError, "target must be given for kind='ce'"),
    ("no reference", lambda: attack(kind="kl"), TypeError, "reference must be given for kind='kl'"),
    ("reference of integers", lambda: attack(kind="kl", reference=T.int()), TypeError, "reference must be float64"),
    ("reference of other classes", lambda: attack(kind="kl", reference=T[:, :3]), ValueError, "reference must have"),
    ("targeted a string", lambda: attack(targeted="no"), TypeError, "targeted must be a bool, got str"),
    ("cw without target", lambda: attack(target=None, kind="cw"), TypeError, "target must be given for kind='cw'"),
    ("cw of one class", lambda: attack(S[:, :1], kind="cw"), ValueError, r"logits must .* at least 2 .*got \[2, 1\]"),
    ("dlr of two classes", lambda: attack(S[:, :2], kind="dlr"), ValueError, r"least 3 for kind='dlr', got \[2, 2\]"),
    ("targeted dlr of three", lambda: towards(S[:, :3]), ValueError, "least 4 for kind='dlr' with targeted=True"),
    ("no true classes", lambda: towards(reference=None), ValueError, "reference must be given .*: the true classes"),
    ("true classes as logits", lambda: towards(reference=T), TypeError, "reference must be int64, got torch.float32"),
    ("true classes of a batch", lambda: towards(reference=Y[:1]), ValueError, r"reference must have shape \[2\], got"),
    ("true classes elsewhere", lambda: towards(reference=Y.to("meta")), ValueError, "reference must be on the device"),
    ("reference elsewhere", lambda: attack(kind="kl", reference=T.to("meta")), ValueError, "reference must be on"),
    ("plane of integers", lambda: plane(X.int()), TypeError, "x must be float64, .* got torch.int32"),
    ("plane of one dimension", lambda: plane(X[0, 0], G[0, 0]), ValueError, r"x must have shape \[N, ...\].*\[4\]"),
    ("normal of integers", lambda: plane(normal=G.int()), TypeError, "normal must be float64, .* got torch.int32"),
    ("normal of a batch", lambda: plane(normal=G[:1]), ValueError, r"normal must have the shape of x, .*\[1, 3, 4\]"),
    ("normal elsewhere", lambda: plane(normal=META), ValueError, "normal must be on the device of x, cpu, got meta"),
    ("offset a float", lambda: plane(offset=0.5), TypeError, "offset must be a tensor, got float"),
    ("offset of integers", lambda: plane(offset=ORDER), TypeError, "offset must be float64, .* got torch.int64"),
    ("offset of a batch", lambda: plane(offset=GAP[:1]), ValueError, r"offset must have shape \[2\], got \[1\]"),
    ("offset elsewhere", lambda: plane(offset=GAP.to("meta")), ValueError, "offset must be on device cpu, got"),
    ("plane of a norm", lambda: plane(norm="l3"), ValueError, "norm must be one of 'linf', 'l2', 'l1', got 'l3'"),
    ("plane of bounds", lambda: plane(bounds=(1.0, 0.0)), ValueError, "bounds must be"),
    ("plane of one bound", lambda: plane(bounds=1.0), TypeError, "bounds must be None or a pair of floats, got 1.0"),
    ("square of integers", lambda: square(PARTICLES.int()), TypeError, "x must be float64, .* got torch.int32"),
    ("square of rows", lambda: square(X, X0), ValueError, r"x must have shape \[N, C, H, W\], got \[2, 3, 4\]"),
    ("x0 of integers", lambda: square(x0=PARTICLES.int()), TypeError, "x0 must be float64, .* got torch.int32"),
    ("x0 of a batch", lambda: square(x0=PARTICLES[:1]), ValueError, r"x0 must have the shape of x, .*\[1, 5, 3, 4\]"),
    ("x0 elsewhere", lambda: square(x0=PARTICLES.to("meta")), ValueError, "x0 must be on the device of x, cpu, got"),
    ("query an int", lambda: square(query=3), TypeError, "query must be an int64 tensor, got int"),
    ("query of int32", lambda: square(query=ORDER.int()), TypeError, "query must be an int64 tensor, got torch.int32"),
    ("query of a batch", lambda: square(query=ORDER[:1]), ValueError, r"query must have shape \[2\], got \[1\]"),
    ("query negative", lambda: square(query=ORDER - 2), ValueError, "query must not be negative, got -2"),
    ("query elsewhere", lambda: square(query=ORDER.to("meta")), ValueError, "query must be on device cpu, got"),
    ("square eps negative", lambda: square(eps=-0.1), ValueError, "eps must not be negative, got -0.1"),
    ("square eps of one", lambda: square(eps=GAP - 1), ValueError, "eps must be at least 0.0 for every sample, got -"),
    ("square eps of more", lambda: square(eps=torch.ones(3)), ValueError, r"eps must .*\[2\], got \[3\]"),
    ("square norm", lambda: square(norm="l0"), ValueError, "norm must be one of 'linf', 'l2', 'l1', got 'l0'"),
    ("square bounds", lambda: square(bounds=(1.0, 0.0)), ValueError, "bounds must be"),
    ("square seed a float", lambda: square(seed=0.5), TypeError, "seed must be an int or an int64 tensor, got float"),
    ("square seeds", lambda: square(seed=ORDER), ValueError, r"seed must have shape \[\], got \[2\]"),
    ("square seed too large", lambda: square(seed=2**64), ValueError, "seed must fit in 64 bits, got"),
    ("sample_ids of int32", lambda: square(sample_ids=ORDER.int()), TypeError, "sample_ids must be an int64 tensor"),
    ("sample_ids of one", lambda: square(sample_ids=ORDER[:1]), ValueError, r"sample_ids must have shape \[2\], got"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD])
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss", [kd, dkd, matching, attack, margin, towards])
class TestTarget:
    """Losses of a target refuse what is no class, on every backend: a wrong one would be read out of bounds."""

    @pytest.mark.parametrize("target", [6, -1, 2**40, -(2**63)])
    def test_out_of_range(self, loss, target, backend):
        with pytest.raises(ValueError, match=rf"target must lie in \[0, 6\), got .*{target}"):
            loss(target=torch.tensor([0, target]))

    def test_of_another_dtype(self, loss):
        with pytest.raises(TypeError, match=r"target must be int64, got torch.int32"):
            loss(target=Y.int())
        # To kd_loss these are probabilities.
        error, message = (ValueError, "negative") if loss is kd else (TypeError, "be int64, got torch.float32")
        with pytest.raises(error, match=f"target must .*{message}"):
            loss(target=S)

    def test_no_tensor(self, loss):
        with pytest.raises(TypeError, match="target must be a tensor, got list"):
            loss(target=[1, 2])

    def test_of_another_shape(self, loss):
        for target, shape in ((Y[:1], r"\[1\]"), (Y[:, None], r"\[2, 1\]"), (Y[0], r"\[\]")):
            with pytest.raises(ValueError, match=rf"target must have shape \[2\], got {shape}"):
                loss(target=target)

    def test_on_another_device(self, loss):
        with pytest.raises(ValueError, match=r"target must be on the device .* cpu, got meta"):
            loss(target=Y.to("meta"))


@pytest.mark.parametrize("truth", [6, -1, 2**40])
def test_true_classes_out_of_range(truth, backend):
    with pytest.raises(ValueError, match=rf"reference must lie in \[0, 6\), got .*{truth}"):
        towards(reference=torch.tensor([0, truth]))


VALUE_AND_GRAD = {
    "kl_distill": (fastadv.kl_distill_value_and_grad, (S, T)),
    "kd_loss": (fastadv.kd_loss_value_and_grad, (S, T, Y)),
    "js_distill": (fastadv.js_distill_value_and_grad, (S, T)),
    "dkd_loss": (fastadv.dkd_loss_value_and_grad, (S, T, Y)),
    "igdm_loss": (fastadv.igdm_loss_value_and_grad, (S, S, T, T)),
    "loss_matching": (fastadv.loss_matching_value_and_grad, (S, T, Y)),
    "activation_boundary_loss": (fastadv.activation_boundary_loss_value_and_grad, (S, T)),
    "rkd_loss": (fastadv.rkd_loss_value_and_grad, (S, T)),
    "attack_loss": (fastadv.attack_loss_value_and_grad, (S, Y)),
}


@pytest.mark.parametrize(("function", "arguments"), VALUE_AND_GRAD.values(), ids=VALUE_AND_GRAD)
def test_forms_without_autograd_check_too(function, arguments, backend):
    with pytest.raises(TypeError, match="must be float64"):
        function(arguments[0].int(), *arguments[1:])
    with pytest.raises(ValueError, match=r"must have shape"):
        function(arguments[0][0], *arguments[1:])
    if arguments[-1] is Y:
        with pytest.raises(ValueError, match="target must lie in"):
            function(*arguments[:-1], Y + 6)


def test_a_refused_step_in_place_has_not_moved_anything(backend):
    x = X.clone()
    for keywords in ({"eps": -1.0}, {"norm": "l9"}, {"grad": G[:1]}, {"step_size": NAN}, {"bounds": (1.0, 0.0)}):
        with pytest.raises(ValueError, match="must"):
            step_(x, **keywords)
    assert torch.equal(x, X)
