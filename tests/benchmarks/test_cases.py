"""The benchmark's cases compute the same thing as their opponents, and cover every public op."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

import fastadv
from benchmarks.cases import loops, registry, selected, training
from benchmarks.cases.plain_steps import PLAIN
from benchmarks.opponents import peers
from benchmarks.suite.case import Missing, Work, largest_difference, share_apart
from benchmarks.suite.runner import Differs
from fastadv.train.config.methods import METHODS

CPU = torch.device("cpu")
# The large ones differ from the small ones in nothing but time; steps with attacks are compared on few images below.
LONG = ("1024x", "4096x", "224x224", *(f"training step {name}," for name, plain in PLAIN.items() if plain.attacks))
SMALL = [entry for entry in selected() if not any(part in entry.name for part in LONG)]


@pytest.mark.parametrize("entry", SMALL, ids=[entry.name for entry in SMALL])
def test_fused_and_eager_agree(entry):
    case = entry.build(CPU)
    expected = case.expected()
    assert case.difference(case.fused(), expected) <= case.atol
    bound = case.atol if case.opponents_atol is None else case.opponents_atol
    assert case.difference(case.call(case.eager)(), expected) <= bound


def test_every_public_op_is_measured():
    measured = {entry.op for entry in selected()}
    functions = {name for name in fastadv.__all__ if not name.endswith("_value_and_grad")}
    assert functions - measured == {"pgd_step_", "backends", "use_backend"}
    attacks = {name for name in dir(fastadv.attacks) if f"attacks.{name}" in measured}
    assert attacks == {"fgsm", "pgd", "mi_fgsm", "apgd", "svgd", "bss", "vat"}


def test_a_training_step_of_every_method_is_measured_against_a_plain_one():
    measured = {entry.op for entry in selected() if entry.name.startswith("training step")}
    assert measured == {f"distill.{known.kind.__name__}" for known in METHODS.values()}
    assert set(PLAIN) == set(METHODS)


@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_step_has_the_losses_and_gradients_of_the_method(name):
    training.check(name, PLAIN[name], CPU)


def test_the_step_of_another_method_is_no_opponent():
    with pytest.raises(Differs, match="in float64 losses or gradients differ by"):
        training.check("kd", PLAIN["dkd"], CPU)


def test_no_two_cases_share_a_name():
    names = [entry.name for entry in registry()]
    assert len(set(names)) == len(names)


def test_a_half_precision_formula_is_judged_in_float32():
    (entry,) = (entry for entry in selected() if entry.name == "kl_distill 64x100 bfloat16 forward + backward")
    case = entry.build(CPU)
    loss, grad = case.expected()
    assert (loss.dtype, grad.dtype) == (torch.float32, torch.float32)
    assert case.difference(case.fused(), (loss, grad)) < case.difference(case.call(case.eager)(), (loss, grad))


def test_work_follows_from_its_formula():
    x, half = torch.zeros(6), torch.zeros(2, dtype=torch.bfloat16)
    work = Work.of({"x": x, "half": half}, 2.5, 6, "this and that")
    assert (work.bytes, work.bytes_formula) == (28, "x 24 + half 4")
    assert (work.operations, work.operations_formula) == (15, "2.5 x 6: this and that")


def test_a_nan_is_a_difference():
    broken, sound = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0])
    assert largest_difference(broken, sound) == float("inf")
    assert largest_difference((sound, sound), (sound, broken)) == float("inf")
    assert share_apart(broken, sound, threshold=1.0) == 0.5


def test_a_difference_is_relative_to_what_it_is_of():
    loss, grad = torch.tensor(1.0), torch.tensor([2e-6, -1e-6])
    assert largest_difference((loss, 0 * grad), (loss, grad)) == 1.0
    assert largest_difference(torch.tensor([0.5]), torch.zeros(1)) == 0.5


@pytest.mark.parametrize(
    "name",
    [
        "kl_distill 64x100 bfloat16 forward + backward",
        "kl_distill 64x32000 forward + backward",
        "js_distill 64x32000 value and gradient",
    ],
)
def test_a_loss_without_its_gradient_is_wrong(name):
    """However small a mean over a large batch, or many classes, makes it."""
    (entry,) = (entry for entry in registry() if entry.name == name)
    case = entry.build(CPU)
    value, grad = case.fused()
    assert case.difference((value, grad), case.expected()) <= case.atol
    assert case.difference((value, torch.zeros_like(grad)), case.expected()) > case.atol


def test_a_formula_that_overflows_agrees_with_nothing():
    for result in (1.0, torch.inf):
        assert largest_difference(torch.tensor([result, 1.0]), torch.tensor([torch.inf, 1.0])) == float("inf")


def test_an_opponent_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    build = peers.torchattacks("PGD")
    with pytest.raises(Missing, match="torchattacks"):
        build(torch.nn.Identity(), torch.zeros(1), torch.zeros(1))
    with pytest.raises(Missing, match="GPU"):
        peers.liger("kl", CPU)


def test_adv_lib_is_measured_without_its_plots(monkeypatch):
    pytest.importorskip("adv_lib")
    if importlib.util.find_spec("visdom") is not None:
        pytest.skip("visdom is here")
    monkeypatch.delitem(sys.modules, "adv_lib.utils.visdom_logger", raising=False)
    network, x = torch.nn.Flatten(), torch.rand(4, 3)
    y = network(x).argmax(1)
    found = peers.adv_lib_pgd(0.1, 0.02, 2)(network, x, y)()
    assert 0 <= (found - x).abs().max() <= 0.1 + 1e-6
    assert "visdom" not in sys.modules


def test_an_attack_must_stay_in_its_ball_and_reach_the_loss():
    (entry,) = (entry for entry in selected() if entry.op == "attacks.pgd" and "linf" in entry.name)
    case = entry.build(CPU)
    found, clean = case.fused(), case.arguments[1]
    assert case.difference(found, found) == 0
    assert case.difference(clean, found) == pytest.approx(1)
    assert case.difference(found + 1e-3, found) == float("inf")


def test_an_attack_that_asks_the_network_more_often_is_no_opponent():
    network, x = torch.nn.Identity(), torch.zeros(8, 3)

    def calls(count):
        return lambda: [network(x) for _ in range(count)]

    assert loops._fair(network, calls(4), lambda: calls(5))
    with pytest.raises(Missing, match="shows the network 48 images, ours 32"):
        loops._fair(network, calls(4), lambda: calls(6))


def test_an_opponent_that_needs_more_memory_than_there_is_stays_away():
    with pytest.raises(Missing, match="each of its matrices of distances would take 9 GiB"):
        peers.metric_learning_triplets(16_384)
