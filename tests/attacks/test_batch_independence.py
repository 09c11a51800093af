"""Nothing else in the batch changes the result of an attack on a sample."""

import pytest
import torch
from torch import nn

from fastadv.attacks import pgd
from tests.attacks.every_attack import every_attack_but


@pytest.fixture
def rowwise() -> nn.Module:
    """A network whose arithmetic on a row is the same in any batch."""

    class Rowwise(nn.Module):
        def forward(self, x):
            x = x.double().flatten(1)
            return torch.stack([(x * torch.cos(x + k * torch.arange(108))).sum(1) for k in range(5)], 1)

    return Rowwise()


# The published sampler averages over its batch, and "of each" takes arguments that say which sample is which.
@every_attack_but("released", "of each")
def test_a_sample_alone_is_attacked_as_in_its_batch(attack, rowwise, images, labels):
    together = attack(rowwise, images, labels, seed=3)
    identities = torch.arange(6)
    for i in range(6):
        alone = attack(rowwise, images[i : i + 1], labels[i : i + 1], seed=3, sample_ids=identities[i : i + 1])
        assert torch.equal(alone[0], together[i])
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = attack(rowwise, images[order], labels[order], seed=3, sample_ids=order)
    assert torch.equal(shuffled, together[order])


@pytest.mark.parametrize("restarts", [1, 2])
def test_noise_belongs_to_the_identity(network, images, labels, restarts):
    def start(ids):
        return pgd(
            network,
            images[:1].repeat(3, 1, 1, 1),
            labels[:3],
            eps=0.1,
            steps=0,
            seed=1,
            restarts=restarts,
            sample_ids=torch.tensor(ids),
        )

    first, second, third = start([7, 8, 7])
    if restarts == 1:
        assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert torch.equal(start([8, 8, 8])[1], second)
    assert torch.equal(
        start([0, 1, 2]),
        pgd(network, images[:1].repeat(3, 1, 1, 1), labels[:3], eps=0.1, steps=0, seed=1, restarts=restarts),
    )
