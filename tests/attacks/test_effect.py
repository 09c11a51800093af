"""Every attack does what it is for: a table of the accuracy that it leaves, beside that of plain projected gradient."""

import copy
import functools
import inspect

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, softplus

import fastadv
from fastadv import attacks
from fastadv.attacks import bss, pgd, vat
from tests.attacks.trained import accuracy, trained

EPS = {"linf": 0.08, "l2": 0.5, "l1": 2.5}
STEPS = 10
LOSSES = ("ce", "kl", "dlr", "cw")
# Those that are configured by norm and loss; the others have tests of their own below.
TABLE = {
    name: inspect.signature(kind.function).parameters
    for name, kind in attacks.ATTACKS.items()
    if {"norm", "loss"} <= inspect.signature(kind.function).parameters.keys()
}
# What an attack is given beside norm and loss.
AS_AN_ATTACK = {
    # A sampler whose particles repel each other as strongly as the loss draws them is no attack. Here they are only
    # drawn, by the steps that are steepest in the norm; its defaults have a test below.
    "svgd": lambda norm, loss: {"score_scale": 1e6, "update": "sign" if norm == "linf" else "l2"},
    # The gradient of dlr turns where two logits change places, and a momentum that forgets nothing goes on: what it
    # leaves falls with the decay, from 7 points above plain ascent to none.
    "mi_fgsm": lambda norm, loss: {"decay": 0.5} if loss == "dlr" else {},
}


def value(loss, logits, clean, y):
    """The sum over images of a loss as people write it."""
    if loss == "ce":
        return cross_entropy(logits, y, reduction="sum")
    if loss == "kl":
        return kl_div(logits.log_softmax(1), clean.softmax(1), reduction="sum")
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    margin = others - logits.gather(1, y[:, None])[:, 0]
    ranked = logits.sort(1, descending=True).values
    return (margin if loss == "cw" else margin / (ranked[:, 0] - ranked[:, 2] + 1e-12)).sum()


@functools.cache
def left_by_plain_pgd(norm, loss, steps, from_x):
    """The accuracy that projected gradient ascent leaves, in double precision, from a random start or x."""
    network, x, y = trained()
    network, x0, eps = copy.deepcopy(network).double(), x.double(), EPS[norm]
    start_eps = (0.1 * eps if loss == "kl" else 0.0) if from_x else eps
    moved = fastadv.random_start(x0, eps=start_eps, norm=norm, seed=0)
    step_size = eps if steps == 1 else 2.5 * eps / steps
    for _ in range(steps):
        leaf = moved.clone().requires_grad_()
        (grad,) = torch.autograd.grad(value(loss, network(leaf), network(x0).detach(), y), leaf)
        moved = fastadv.pgd_step(moved, grad, x0, eps=eps, step_size=step_size, norm=norm)
    return accuracy(trained().network, moved.float(), y)


def test_the_table_is_neither_trivial_nor_hopeless():
    clean = accuracy(*trained())
    assert clean > 90
    for norm in EPS:
        assert 15 < left_by_plain_pgd(norm, "ce", STEPS, from_x=False) < clean - 20


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("eot", [1, 2])
@pytest.mark.parametrize("name", ["pgd", "mi_fgsm", "apgd"])
def test_the_networks_own_clean_logits_are_a_reference_to_leave(name, eot, restarts):
    """There is no gradient at x, whether they are given or not; with other logits an attack from x starts there."""
    network, x, _ = trained()
    with torch.no_grad():
        logits = network(x)
    keywords = {"eps": EPS["linf"], "steps": 2, "restarts": restarts, "eot": eot, "seed": 0}
    attack = functools.partial(getattr(attacks, name), network, x, loss="kl", random_start=False, **keywords)
    moved = (attack(reference=logits) - x).flatten(1).abs().amax(1)
    assert (moved > 0.5 * EPS["linf"]).all()
    other = logits.clone()
    other[::2] = logits[::2].roll(1, 1)
    found = attack(reference=other)
    assert torch.equal(found[::2], attack(reference=other, seed=1)[::2])
    assert ((found - x)[1::2].flatten(1).abs().amax(1) > 0.5 * EPS["linf"]).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("name", TABLE)
def test_leaves_no_more_than_plain_pgd_of_as_many_steps(name, norm, loss):
    network, x, y = trained()
    takes = TABLE[name]
    given = {"steps": STEPS} if "steps" in takes else {}
    given |= AS_AN_ATTACK.get(name, lambda *_: {})(norm, loss)
    from_x = "random_start" in takes and not takes["random_start"].default
    labels = () if loss == "kl" else (y,)
    found = getattr(attacks, name)(network, x, *labels, eps=EPS[norm], norm=norm, loss=loss, seed=0, **given)
    assert accuracy(network, found, y) <= left_by_plain_pgd(norm, loss, given.get("steps", 1), from_x) + 3


def test_particles_leave_less_than_random_points():
    network, x, y = trained()
    noise = attacks.svgd(network, x, y, eps=EPS["linf"], steps=0, seed=0)
    found = attacks.svgd(network, x, y, eps=EPS["linf"], seed=0)
    assert accuracy(network, found, y) < accuracy(network, noise, y) - 15


def test_vat_leaves_less_than_noise_of_its_length():
    network, x, y = trained()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noise *= 1.5 / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert accuracy(network, vat(network, x, eps=1.5, seed=0), y) < accuracy(network, x + noise, y) - 20


def test_bss_reaches_the_boundary():
    network, x, y = trained()
    target = (network(x) - 1e9 * nn.functional.one_hot(y, 10)).argmax(1)
    assert accuracy(network, bss(network, x, target, steps=20), y) < 5


class Scaled(nn.Module):
    """``scale`` times the logits of ``network`` plus ``shift``, in ``dtype``: the same predictions."""

    def __init__(self, network: nn.Module, scale: float, shift: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network, self.scale, self.shift, self.dtype = network, scale, shift, dtype

    def forward(self, x):
        return self.network(x).to(self.dtype) * self.scale + self.shift


SCALES = [(10.0, 0.0), (100.0, 0.0), (1000.0, 0.0), (1.0, 1e4)]


@functools.cache
def left_in_double(name, scale):
    """The accuracy that an attack leaves of ``scale`` times the logits, by the cross-entropy in double precision."""
    network, x, y = trained()
    network = Scaled(copy.deepcopy(network).double(), scale, 0.0, torch.float64)

    def error(z, y):
        own = nn.functional.one_hot(y, 10).bool()
        return softplus(z.masked_fill(own, -torch.inf).logsumexp(1) - z[own])

    found = getattr(attacks, name)(network, x.double(), y, eps=EPS["linf"], seed=0, loss=error)
    return accuracy(trained().network, found.float(), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["pgd", "apgd", "mi_fgsm", "fgsm", "svgd"])
def test_the_scale_of_the_logits_flatters_no_network(name, dtype):
    network, x, y = trained()
    network = copy.deepcopy(network).to(dtype)

    def left(scale, shift=0.0):
        found = getattr(attacks, name)(Scaled(network, scale, shift), x, y, eps=EPS["linf"], seed=0)
        return accuracy(Scaled(network, 1.0, 0.0), found.to(dtype), y)

    unscaled = left(1.0)
    assert abs(unscaled - left_in_double(name, 1.0)) <= 2
    # Sharper logits are another loss, in which the largest of the other classes leads: in exact arithmetic too a single
    # step and the particles leave less of it. In double precision nothing underflows at a scale of 10.
    sharp = left_in_double(name, 10.0) if name in ("fgsm", "svgd") else unscaled
    for scale, shift in SCALES:
        scaled = left(scale, shift)
        assert min(unscaled, sharp) - 2 <= scaled <= unscaled + 2
        assert shift or abs(scaled - sharp) <= 2


@pytest.mark.parametrize("loss", ["kl", "dlr", "cw"])
@pytest.mark.parametrize("name", ["pgd", "apgd", "mi_fgsm", "fgsm", "svgd"])
def test_no_other_loss_dies_on_a_confident_network(name, loss):
    network, x, y = trained()
    labels = () if loss == "kl" else (y,)

    def left(scale, shift=0.0):
        model = Scaled(network, scale, shift)
        return accuracy(network, getattr(attacks, name)(model, x, *labels, eps=EPS["linf"], seed=0, loss=loss), y)

    # Both margins rank logits, whatever their scale. Of the divergence a sharper one is another loss, see above.
    less = 4 if loss == "kl" and name == "svgd" else 2
    for scale, shift in SCALES:
        assert left(1.0) - less <= left(scale, shift) <= left(1.0) + 2


@pytest.mark.parametrize("norm", EPS)
def test_neither_does_the_search_of_autoattack(norm):
    network, x, y = trained()
    x, y = x[:100], y[:100]
    how = {"eps": EPS[norm], "norm": norm, "variant": "autoattack", "steps": 20, "seed": 0}
    left = [accuracy(network, attacks.apgd(Scaled(network, scale, 0.0), x, y, **how), y) for scale in (1.0, 1000.0)]
    assert left[0] < accuracy(network, x, y) - 20
    assert abs(left[1] - left[0]) <= 2


def test_plain_cross_entropy_dies_where_the_log_odds_do_not():
    """Why "ce" climbs the log-odds: what people write does nothing to confident images."""
    network, x, y = trained()
    confident = Scaled(network, 1000.0, 0.0)
    plain = pgd(confident, x, y, eps=EPS["linf"], seed=0, loss=lambda z, y: cross_entropy(z, y, reduction="none"))
    ours = pgd(confident, x, y, eps=EPS["linf"], seed=0)
    assert accuracy(network, plain, y) > accuracy(network, ours, y) + 20
