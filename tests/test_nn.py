"""The losses as modules: each is its function with the settings it was built with, and the line it replaces."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastadv
from benchmarks.opponents import features, losses

T, A, B = 2.5, 0.3, 3.0


def logits(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(6, 5, generator=generator) for _ in range(count)]


S, TEACHER, S_MINUS, T_MINUS = logits(4)
Y = torch.tensor([0, 4, 2, 2, 1, 3])
WEIGHT = torch.tensor([0.0, 1, 2, -1, 0.5, 3])

# By name: the module as built by default and with other settings, its inputs, its function and those settings.
MODULES = {
    "KLDistillLoss": (
        fastadv.nn.KLDistillLoss,
        {"temperature": T, "reduction": "mean"},
        (S, TEACHER),
        fastadv.kl_distill,
    ),
    "JSDistillLoss": (
        fastadv.nn.JSDistillLoss,
        {"temperature": T, "reduction": "none"},
        (S, TEACHER),
        fastadv.js_distill,
    ),
    "KDLoss": (
        fastadv.nn.KDLoss,
        {"temperature": T, "alpha": A, "reduction": "sum"},
        (S, TEACHER, Y),
        fastadv.kd_loss,
    ),
    "DKDLoss": (
        fastadv.nn.DKDLoss,
        {"temperature": T, "alpha": A, "beta": B, "reduction": "none"},
        (S, TEACHER, Y),
        fastadv.dkd_loss,
    ),
    "IGDMLoss": (fastadv.nn.IGDMLoss, {"reduction": "sum"}, (S, S_MINUS, TEACHER, T_MINUS), fastadv.igdm_loss),
    "LossMatchingLoss": (fastadv.nn.LossMatchingLoss, {"reduction": "none"}, (S, TEACHER, Y), fastadv.loss_matching),
    "TripletMarginLoss": (
        fastadv.nn.TripletMarginLoss,
        {"margin": 0.5, "p": 1.5, "eps": 1e-3, "swap": True, "reduction": "none"},
        (S, TEACHER, S_MINUS),
        fastadv.triplet_margin_loss,
    ),
    "RKDLoss": (
        fastadv.nn.RKDLoss,
        {"distance_weight": 2.0, "angle_weight": 3.0},
        (S, TEACHER),
        fastadv.rkd_loss,
    ),
    "ActivationBoundaryLoss": (
        fastadv.nn.ActivationBoundaryLoss,
        {"margin": 0.5, "reduction": "none"},
        (S, TEACHER),
        fastadv.activation_boundary_loss,
    ),
}
UNWEIGHTED = {"TripletMarginLoss", "RKDLoss", "ActivationBoundaryLoss"}
EACH = pytest.mark.parametrize(("build", "settings", "inputs", "function"), MODULES.values(), ids=MODULES)


def test_every_module_is_tested():
    assert set(fastadv.nn.__all__) == set(MODULES)


@EACH
def test_is_its_function(build, settings, inputs, function):
    assert torch.equal(build()(*inputs), function(*inputs))
    assert torch.equal(build(**settings)(*inputs), function(*inputs, **settings))
    if build.__name__ not in UNWEIGHTED:
        assert torch.equal(build(**settings)(*inputs, weight=WEIGHT), function(*inputs, weight=WEIGHT, **settings))


@EACH
def test_survives_copies(build, settings, inputs, function):
    module = build(**settings)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(twin(*inputs), module(*inputs))
        assert repr(twin) == repr(module)


@EACH
def test_has_no_state(build, settings, inputs, function):
    module = build(**settings)
    assert module.state_dict() == {}
    module.load_state_dict({})
    module.half().eval()
    assert torch.equal(module(*inputs), function(*inputs, **settings))


@EACH
def test_representation_is_how_it_was_built(build, settings, inputs, function):
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    assert repr(build(**settings)) == f"{build.__name__}({shown})"
    assert repr(eval(repr(build(**settings)), vars(fastadv.nn))) == repr(build(**settings))


@EACH
def test_one_graph(build, settings, inputs, function):
    torch._dynamo.reset()
    module = build(**settings)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    student = inputs[0].clone().requires_grad_()
    loss = compiled(student, *inputs[1:])
    assert torch.equal(loss, module(*inputs))
    (grad,) = torch.autograd.grad(loss.sum(), student)
    (expected,) = torch.autograd.grad(module(student, *inputs[1:]).sum(), student)
    assert torch.equal(grad, expected)


@EACH
def test_a_setting_changed_later_counts(build, settings, inputs, function):
    module = build()
    for name, value in settings.items():
        setattr(module, name, value)
    assert torch.equal(module(*inputs), function(*inputs, **settings))


@EACH
def test_bad_settings_are_refused_at_once(build, settings, inputs, function):
    if "reduction" in settings:
        with pytest.raises(ValueError, match=r"reduction must be one of .*, got 'average'"):
            build(reduction="average")
    if "swap" in settings:
        with pytest.raises(TypeError, match="swap must be a bool, got int"):
            build(swap=1)
    for name in settings.keys() - {"reduction", "swap"}:
        with pytest.raises(ValueError, match=f"{name} must be"):
            build(**{name: float("nan")})
        with pytest.raises(TypeError, match=f"{name} must be a float, got str"):
            build(**{name: "4"})
    if "class_dim" in build._rare:
        with pytest.raises(TypeError, match="class_dim must be an int or None, got str"):
            build(class_dim="1")
    if "ignore_index" in build._rare:
        with pytest.raises(TypeError, match="ignore_index must be an int or None, got float"):
            build(ignore_index=1.5)


def kl(log_q: Tensor, p: Tensor) -> Tensor:
    return nn.KLDivLoss(reduction="batchmean")(log_q, p)


def test_replaced_lines():
    """The lines that the docstrings show, one above the other."""
    log_q, p, q = F.log_softmax(S / T, 1), F.softmax(TEACHER / T, 1), F.softmax(S / T, 1)
    log_m = ((p + q) / 2).log()
    ce = nn.CrossEntropyLoss(reduction="none")
    close = torch.testing.assert_close
    close(fastadv.nn.KLDistillLoss(T)(S, TEACHER), kl(log_q, p) * T * T)
    close(fastadv.nn.JSDistillLoss(T)(S, TEACHER), (kl(log_m, p) + kl(log_m, q)) / 2 * T * T)
    close(fastadv.nn.KDLoss(T, A)(S, TEACHER, Y), (1 - A) * nn.CrossEntropyLoss()(S, Y) + A * kl(log_q, p) * T * T)
    close(fastadv.nn.DKDLoss(T, A, B)(S, TEACHER, Y), losses.dkd_loss(S, TEACHER, Y, T, A, B))
    gaps = F.log_softmax(S - S_MINUS, 1), F.softmax(TEACHER - T_MINUS, 1)
    close(fastadv.nn.IGDMLoss()(S, S_MINUS, TEACHER, T_MINUS), kl(*gaps))
    close(fastadv.nn.LossMatchingLoss()(S, TEACHER, Y), nn.MSELoss()(ce(S, Y), ce(TEACHER, Y)))
    triplet = {"margin": 0.5, "p": 1.5, "eps": 1e-3, "swap": True}
    close(
        fastadv.nn.TripletMarginLoss(**triplet)(S, TEACHER, S_MINUS),
        nn.TripletMarginLoss(**triplet)(S, TEACHER, S_MINUS),
    )
    close(fastadv.nn.RKDLoss(T, B)(S, TEACHER), features.rkd_loss(S, TEACHER, T, B))
    s, t, m = S, TEACHER, T
    published = ((s + m) ** 2 * ((s > -m) & (t <= 0)) + (s - m) ** 2 * ((s <= m) & (t > 0))).sum() / len(s)
    close(fastadv.nn.ActivationBoundaryLoss(m)(s, t), published)


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize("reduce", [None, False, True])
@pytest.mark.parametrize("size_average", [None, False, True])
def test_deprecated_reductions_of_the_triplet_loss(size_average, reduce):
    keywords = {"size_average": size_average, "reduce": reduce, "reduction": "sum"}
    ours, theirs = fastadv.nn.TripletMarginLoss(**keywords), nn.TripletMarginLoss(**keywords)
    assert ours.reduction == theirs.reduction
    assert inspect.signature(type(ours)).parameters.keys() == inspect.signature(type(theirs)).parameters.keys()
