"""An attack leaves the caller's networks, modes and random state as they were, also when it fails."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout

from fastadv.attacks import Logits, Normalized, pgd
from tests.attacks.every_attack import QUEUED, every_attack


class FailsOnItsSecondCall(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            raise ArithmeticError
        return self.network(x)


def state(network: nn.Module) -> dict[str, object]:
    return {
        "flags": [module.training for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "grads": [None if parameter.grad is None else parameter.grad.clone() for parameter in network.parameters()],
        "tensors": copy.deepcopy(network.state_dict()),
        "random": torch.get_rng_state(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }


def assert_unchanged(network: nn.Module, before: dict[str, object]) -> None:
    torch.testing.assert_close(state(network), before, atol=0, rtol=0, equal_nan=True)


@pytest.fixture
def partly_frozen(network) -> nn.Sequential:
    network[1].eval()
    network[0].bias.requires_grad_(False)
    network[5].weight.grad = torch.ones_like(network[5].weight)
    return network


@every_attack
@pytest.mark.parametrize("grad", [True, False])
def test_everything_is_as_it_was(attack, grad, partly_frozen, images, labels):
    before = state(partly_frozen)
    with torch.set_grad_enabled(grad):
        attack(partly_frozen, images, labels)
        assert torch.is_grad_enabled() == grad
    assert_unchanged(partly_frozen, before)
    assert partly_frozen[0].weight.grad is None


@every_attack
def test_everything_is_as_it_was_when_the_model_fails(attack, partly_frozen, images, labels):
    failing = FailsOnItsSecondCall(partly_frozen)
    before = state(failing)
    with torch.no_grad(), pytest.raises(ArithmeticError):
        attack(failing, images, None)  # the first call is the clean prediction, where there is one
    assert_unchanged(failing, before)


def test_a_method_of_a_module_is_that_module(network, images, labels):
    before, random = state(network), torch.get_rng_state()
    found = pgd(network.forward, images, labels, eps=0.1, seed=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert_unchanged(network, before)
    assert torch.equal(found, pgd(network, images, labels, eps=0.1, seed=0))
    half = network.bfloat16()
    assert torch.equal(pgd(half.forward, images, eps=0.1, seed=0), pgd(half, images, eps=0.1, seed=0))


def test_everything_is_as_it_was_when_the_loss_fails(partly_frozen, images):
    before = state(partly_frozen)
    with pytest.raises(ZeroDivisionError):
        pgd(partly_frozen, images, eps=0.1, loss=lambda logits: 1 / 0)
    assert_unchanged(partly_frozen, before)


@every_attack
def test_the_model_runs_in_eval_mode_with_gradients(attack, network, images, labels, request):
    seen = []
    network[5].register_forward_hook(
        lambda module, args, output: seen.append((module.training, network[1].training, output.requires_grad))
    )
    with torch.no_grad():
        attack(network, images, labels)
    assert {modes[:2] for modes in seen} == {(False, False)}
    # Square search is forward only, and nearest-boundary steps are for images that are classified right at first.
    assert any(modes[2] for modes in seen) or request.node.callspec.id in QUEUED


@every_attack
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_callers_grad_mode_changes_nothing(attack, context, network, images, labels):
    network.eval()
    torch.manual_seed(0)
    expected = pgd(network, images, labels, eps=0.1, seed=0)
    with context():
        inside = pgd(network, images.clone(), labels.clone(), eps=0.1, seed=0)
        attack(network, images.clone(), None)
    assert torch.equal(inside, expected)


@every_attack
def test_training_inside_the_same_autocast_region_keeps_its_gradients(attack, network, images, labels):
    # The clean prediction that label None asks for runs without grad, and autocast caches the weights it casts there.
    with torch.autocast("cpu", torch.bfloat16):
        attack(network, images, None)
        assert torch.is_autocast_enabled("cpu")
        loss = cross_entropy(network(images), labels)
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_distributed_network_is_attacked_without_its_wrapper(network, images, labels, data_parallel):
    parallel = data_parallel(network)
    collective_forwards = []
    parallel.register_forward_hook(lambda *_: collective_forwards.append(1))
    for _ in range(2):
        attacked = pgd(parallel, images, labels, eps=0.1, steps=2, seed=0)
        assert torch.equal(attacked, pgd(network, images, labels, eps=0.1, steps=2, seed=0))
        cross_entropy(parallel(images), labels).backward()
    assert len(collective_forwards) == 2


AROUND_DISTRIBUTED = {
    "normalised": lambda parallel: Normalized(parallel, 0.5, 0.25),
    "logits": lambda parallel: Logits(Normalized(lambda x: (parallel(x),), 0.5, 0.25), 0),
    "function": lambda parallel: lambda x: parallel(x),
}


@pytest.mark.parametrize("around", AROUND_DISTRIBUTED.values(), ids=AROUND_DISTRIBUTED)
def test_ranks_need_not_attack_in_step_behind_what_is_around_a_distributed_network(
    around, network, images, labels, data_parallel, monkeypatch
):
    parallel, synchronised = data_parallel(network), []
    monkeypatch.setattr(parallel, "_sync_buffers", lambda: synchronised.append(1))
    for _ in range(2):
        attacked = pgd(around(parallel), images, labels, eps=0.1, steps=2, seed=0)
        assert not synchronised
        assert torch.equal(attacked, pgd(around(network), images, labels, eps=0.1, steps=2, seed=0))
        cross_entropy(parallel(images), labels).backward()
        assert synchronised.pop()
    assert all(parameter.grad is not None for parameter in network.parameters())


class DropsItsInput(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(dropout(x, training=self.training))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("outside", [lambda compiled: compiled, lambda compiled: Normalized(compiled, 0.5, 0.25)])
def test_a_compiled_network_has_its_own_mode_again(outside, training, network, images, labels):
    root = DropsItsInput(network)
    model = outside(torch.compile(root, backend="eager")).train(training)
    pgd(model, images, labels, eps=0.1, steps=1)
    assert all(module.training == training for module in (*model.modules(), *root.modules()))
