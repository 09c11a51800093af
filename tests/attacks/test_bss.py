"""bss against the published attack written out, and where it stops."""

import pytest
import torch
from torch import nn

from fastadv.attacks import bss


def written_out(network, x, target, *, steps=10, step_size=0.3, bounds=(0.0, 1.0)):
    """The published attack, the whole batch at a time, with the sizes of its steps."""
    base = network(x).argmax(1)
    rows, taken = torch.arange(len(x)), []
    for _ in range(steps):
        leaf = x.clone().requires_grad_()
        logits = network(leaf)
        gap = logits[rows, base] - logits[rows, target]
        (grad,) = torch.autograd.grad(-gap.sum(), leaf)
        alpha = step_size * (logits.argmax(1) == base)
        length = grad.flatten(1).norm(dim=1).clamp(min=1e-300)
        step = (alpha * (gap.detach() + 1e-4) / length).view(-1, 1, 1, 1)
        x = (x + step * grad).clamp(*bounds)
        taken.append(alpha > 0)
    return x, torch.stack(taken)


@pytest.fixture
def far(network, images):
    """A network in float64, and a class for each image that it does not predict."""
    network.eval().double()
    return network, images.double(), (network(images.double()).argmax(1) + torch.tensor([1, 2, 3, 4, 1, 2])) % 5


@pytest.mark.parametrize("step_size", [0.3, 1.5])
def test_equals_the_published_attack(far, step_size):
    network, x, target = far
    expected, taken = written_out(network, x, target, step_size=step_size)
    assert taken[0].all()
    if step_size == 1.5:
        assert taken.sum(0).unique().numel() > 1  # some stop before others
    torch.testing.assert_close(bss(network, x, target, step_size=step_size), expected)


def test_stops_in_the_next_class_whatever_it_is():
    def model(x):
        return torch.stack((torch.ones(len(x)), x[:, 0], 0.5 + 0.8 * x[:, 0]), 1)

    # The third class overtakes the base class at 0.625, where the target is still behind.
    at, widths = 0.0, []
    while at < 0.625:
        widths.append(1 - at)
        at += 0.3 * (1 - at + 1e-4)
    assert len(widths) == 3
    for steps in (3, 4, 10):
        found = bss(model, torch.zeros(1, 2), torch.tensor([1]), steps=steps)
        torch.testing.assert_close(found, torch.tensor([[at, 0.0]]))
        assert model(found).argmax(1) == 2


def test_stopping_early_finds_the_same_images(far):
    network, x, target = far
    calls = []

    def counting(at):
        calls.append(at)
        return network(at)

    whole = bss(network, x, target, step_size=1.5, steps=40, stop_early=False)
    found = bss(counting, x, target, step_size=1.5, steps=40)
    assert torch.equal(found, whole)
    # It has seen that the last one had left, and nothing after that.
    assert torch.equal(calls[-1].detach(), whole)
    assert not torch.equal(calls[-2].detach(), whole)
    assert len(calls) < 40


def test_stopping_early_is_a_choice(far, as_on_a_device):
    network, x, target = far
    calls = []

    def counting(at):
        calls.append(at)
        return network(at)

    for stop_early, asked in ((None, False), (False, False), (True, True)):
        calls.clear()
        bss(counting, x, target, step_size=1.5, steps=40, stop_early=stop_early)
        assert (len(calls) < 40) == asked
    with pytest.raises(TypeError, match="stop_early must be a bool, got int"):
        bss(*far, stop_early=1)


def test_stays_after_it_has_left_even_where_the_model_changes_its_mind(far):
    network, x, target = far
    calls = []

    def moody(at):
        calls.append(at)
        logits = network(at)
        # The third call says another class, of which later ones know nothing.
        return logits if len(calls) != 3 else logits.roll(1, dims=1)

    found = bss(moody, x, target, steps=6, stop_early=False)
    assert len(calls) == 6
    assert torch.equal(found, calls[2])
    assert not torch.equal(found, calls[1])


def test_closes_the_gap_of_a_linear_model_by_its_share():
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]))  # gap 3 a - 4 b, |g| = 5
    x = torch.tensor([[2.0, 0.5, 0.25]], dtype=torch.float64)
    moved = bss(model, x, torch.tensor([1]), steps=1, step_size=0.1, bounds=None)
    expected = x + 0.1 * (4.0 + 1e-4) * torch.tensor([[-3.0, 4.0, 0.0]], dtype=torch.float64) / 5
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


def test_a_target_that_is_predicted_moves_nothing(far):
    network, x, target = far
    base = network(x).argmax(1)
    mixed = torch.where(torch.arange(6) < 3, base, target)
    found = bss(network, x, mixed, step_size=1.0)
    assert torch.equal(found[:3], x[:3])
    torch.testing.assert_close(found[3:], bss(network, x, target, step_size=1.0)[3:])
    assert (found[3:] != x[3:]).any()


def test_steps_and_step_sizes_of_each(far):
    network, x, target = far
    steps, step_size = torch.tensor([0, 1, 2, 3, 4, 10]), torch.linspace(0.1, 0.6, 6)
    together = bss(network, x, target, steps=steps, step_size=step_size)
    for i in range(6):
        alone = bss(network, x[i : i + 1], target[i : i + 1], steps=int(steps[i]), step_size=step_size[i].item())
        torch.testing.assert_close(together[i], alone[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_become_masters(network, images, labels, dtype):
    found = bss(network.to(dtype), images.to(dtype), labels)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert bss(network, images[:0], labels[:0]).shape == (0, 3, 6, 6)


def test_the_result_has_memory_of_its_own(network, images, labels):
    found = bss(network, images, labels, steps=0)
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": None}, TypeError, "target must be an int64 tensor, got NoneType"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, ValueError, r"target must have shape \[6\], got \[5\]"),
        ({"target": torch.full([6], 5)}, (ValueError, RuntimeError), r"target must lie in \[0, 5\)"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"step_size": "long"}, TypeError, "step_size must be a float, got str"),
        ({"step_size": torch.ones(2)}, ValueError, r"step_size must be a float or have shape \[6\]"),
        ({"bounds": (1, 0)}, ValueError, "bounds must be"),
        ({"model": [nn.Flatten(), nn.Flatten()]}, ValueError, "model must be one network, got a sequence"),
    ],
)
def test_bad_arguments_are_named(network, images, labels, change, error, message):
    arguments = {"model": network, "x": images, "target": labels} | change
    with pytest.raises(error, match=message):
        bss(**arguments)
