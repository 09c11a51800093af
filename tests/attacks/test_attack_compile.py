"""The loops as one graph under torch.compile."""

import pytest
import torch

from fastadv.attacks import APGD, PGD, SVGD, pgd
from tests.attacks.every_attack import QUEUED, every_attack_but


@pytest.fixture(autouse=True)
def _without_earlier_graphs():
    torch.compiler.reset()


def assert_captured(attack, network, images, labels):
    modes = [module.training for module in network.modules()]
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(
            lambda *args: attack(network, *args[:2], seed=args[2]), fullgraph=True, backend="aot_eager"
        )
        for seed in (1, 2):
            expected = attack(network, images, labels, seed=torch.tensor(seed))
            assert torch.equal(compiled(images, labels, torch.tensor(seed)), expected)
    assert [module.training for module in network.modules()] == modes


@every_attack_but("of each", *QUEUED)
def test_captures_as_one_graph(attack, network, images, labels):
    assert_captured(attack, network.train(), images, labels)


@pytest.mark.parametrize("attack", [PGD(eps=0.1, steps=3), APGD(eps=0.1, steps=6), SVGD(eps=0.1, steps=3)])
def test_captures_a_network_that_is_in_eval_mode_already(attack, network, images, labels):
    assert_captured(attack, network.eval(), images, labels)


def test_a_compiled_attack_wants_a_seed(network, images, labels):
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(lambda x, y: pgd(network, x, y, eps=0.1), fullgraph=True, backend="aot_eager")
        with pytest.raises(Exception, match="seed must be given"):
            compiled(images, labels)


def test_a_compiled_attack_wants_one_number_of_steps(network, images, labels):
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(
            lambda x, y, steps: pgd(network, x, y, eps=0.1, steps=steps, seed=0), fullgraph=True, backend="aot_eager"
        )
        with pytest.raises(Exception, match="steps must be an int under"):
            compiled(images, labels, torch.arange(6))
