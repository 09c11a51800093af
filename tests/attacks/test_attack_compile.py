"""The loops as one graph under torch.compile."""

import pytest
import torch

from fastadv.attacks import pgd, svgd


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda *args, seed: pgd(*args, eps=0.1, steps=3, seed=seed), id="pgd"),
        pytest.param(lambda *args, seed: pgd(*args, eps=0.1, steps=2, seed=seed, restarts=2, best=True), id="best"),
        pytest.param(lambda *args, seed: svgd(*args, eps=0.1, steps=2, seed=seed), id="svgd"),
    ],
)
def test_captures_as_one_graph(attack, training, network, images, labels):
    network.train(training)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(
            lambda *args: attack(network, *args[:2], seed=args[2]), fullgraph=True, backend="aot_eager"
        )
        for seed in (1, 2):
            expected = attack(network, images, labels, seed=torch.tensor(seed))
            assert torch.equal(compiled(images, labels, torch.tensor(seed)), expected)
    assert all(module.training == training for module in network.modules())


def test_a_compiled_attack_wants_a_seed(network, images, labels):
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(lambda x, y: pgd(network, x, y, eps=0.1), fullgraph=True, backend="aot_eager")
        with pytest.raises(Exception, match="seed must be given"):
            compiled(images, labels)
