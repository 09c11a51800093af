"""A saved evaluation stays as it was saved: any number of runs may go on from it."""

import copy

import pytest
import torch

from fastadv.attacks import AutoAttack
from tests.attacks.trained import trained


@pytest.mark.parametrize("passes", [0, 12])
def test_what_was_saved_can_be_gone_on_with_again(passes):
    network, (x, y) = trained().network, (each[:40] for each in trained()[1:])

    def evaluation():
        return AutoAttack(network, x, y, eps=0.03, version=["apgd-ce"], batch_size=16)

    begun = evaluation()
    for _ in range(passes):
        begun.advance()
    saved = begun.state_dict()
    as_saved = copy.deepcopy(saved)
    first, second = evaluation(), evaluation()
    first.load_state_dict(saved)
    first.run()
    assert (first.broken_by >= 0).any()
    torch.testing.assert_close(saved, as_saved, atol=0, rtol=0)
    second.load_state_dict(saved)
    second.run()
    assert torch.equal(second.broken_by, first.broken_by)
    assert torch.equal(second.images, first.images)
