"""Each sample makes its own number of steps in a batch that keeps its size."""

import pytest
import torch

from fastadv.attacks import apgd, mi_fgsm, pgd, svgd, vat

STEPS = torch.tensor([0, 1, 2, 3, 5, 2])


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda *args, **k: pgd(*args, eps=0.1, step_size=0.03, **k), id="pgd"),
        pytest.param(lambda *args, **k: pgd(*args, eps=0.1, **k), id="default step size"),
        pytest.param(lambda *args, **k: pgd(*args, eps=0.5, step_size=0.1, norm="l2", best=True, **k), id="l2 best"),
        pytest.param(lambda *args, **k: pgd(*args, eps=0.1, step_size=0.03, restarts=3, **k), id="restarts"),
        pytest.param(lambda *args, **k: mi_fgsm(*args, eps=0.1, step_size=0.03, **k), id="mi_fgsm"),
        pytest.param(lambda *args, **k: apgd(*args, eps=0.1, restarts=2, **k), id="apgd"),
        pytest.param(lambda *args, **k: svgd(*args, eps=0.1, step_size=0.03, particles=3, **k), id="svgd"),
        pytest.param(lambda model, x, y, **k: vat(model, x, eps=0.5, **k), id="vat"),
    ],
)
def test_each_sample_stops_after_its_own_steps(attack, network, images, labels):
    network, x = network.double(), images.double()
    together = attack(network, x, labels, steps=STEPS, seed=1)
    for i, steps in enumerate(STEPS.tolist()):
        torch.testing.assert_close(together[i], attack(network, x, labels, steps=steps, seed=1)[i])
    assert not torch.equal(together, attack(network, x, labels, steps=5, seed=1))


def test_the_batch_keeps_its_size(network, images, labels):
    sizes = []
    network.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    pgd(network, images, labels, eps=0.1, steps=STEPS)
    assert sizes == [6] * 5
    assert pgd(network, images[:0], labels[:0], eps=0.1, steps=STEPS[:0]).shape == (0, 3, 6, 6)


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (torch.tensor([1, 2, -1, 0, 0, 0]), ValueError, "steps must be at least 0 for every sample, got -1"),
        (torch.arange(5), ValueError, r"steps must have shape \[6\], got \[5\]"),
        (torch.ones(6), TypeError, "steps must be an int64 tensor, got torch.float32"),
        (torch.arange(6, device="meta"), ValueError, "steps must be an int or a tensor on the CPU"),
        ([1, 2], TypeError, "steps must be an int, got list"),
    ],
)
@pytest.mark.parametrize("attack", [pgd, svgd, lambda model, x, y, **k: vat(model, x, **k)])
def test_bad_steps_are_named(attack, steps, error, message, network, images, labels):
    with pytest.raises(error, match=message):
        attack(network, images, labels, eps=0.1, steps=steps)
