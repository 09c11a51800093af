"""The remainder that a network's gradient leaves unexplained, in closed form, and IGDM's warning of it."""

import copy
import re
import warnings

import pytest
import torch
from torch import nn

import fastadv
from fastadv.distill import IGDM, RSLAD, Batch
from fastadv.distill.igdm import remainder, remainder_proportion


class Quadratic(nn.Module):
    """Logits (u + c u^2, 0) of u = sum(x) / D."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.curvature = curvature

    def forward(self, x):
        u = x.flatten(1).mean(1)
        return torch.stack((u + self.curvature * u * u, torch.zeros_like(u)), 1)


@pytest.fixture
def images():
    return torch.linspace(0.2, 0.8, 5).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def test_a_linear_network_leaves_nothing(batch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    assert remainder(network, batch[0].double(), eps=0.1) < 1e-12


def test_a_quadratic_network(images):
    # The first logit is the larger one everywhere, so d lowers u by eps: the change is -eps (1 + 2 c u) + c eps^2.
    u, c, eps = 0.5, 3.0, 0.1
    expected = c * eps**2 / (eps * (1 + 2 * c * u) - c * eps**2)
    torch.testing.assert_close(remainder(Quadratic(c), images, eps=eps), torch.tensor(expected), rtol=1e-4, atol=0)


def test_the_papers_proportion_of_a_quadratic_network(images):
    # Along e the first logit is off by c mean(e)^2, of u' + c u'^2 at u' = u + mean(e).
    c, eps = 3.0, 0.1
    noise = fastadv.random_start(images, eps=eps, bounds=None, seed=5) - images
    step, u = noise.flatten(1).mean(1), images.flatten(1).mean(1)
    expected = (c * step**2 / (u + step + c * (u + step) ** 2)).mean()
    torch.testing.assert_close(remainder_proportion(Quadratic(c), images, eps=eps, seed=5), expected, rtol=1e-3, atol=0)


def test_it_leaves_no_trace(teacher, batch):
    before = copy.deepcopy(teacher.state_dict())
    value = remainder(teacher, batch[0], eps=0.1)
    assert not value.requires_grad
    assert all(module.training for module in teacher.modules())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    torch.testing.assert_close(teacher.state_dict(), before, atol=0, rtol=0)
    assert value == remainder(teacher.eval().requires_grad_(False), batch[0], eps=0.1)


def test_igdm_warns_of_a_teacher_that_is_not_robust(images, student):
    # Next to its peak at u = 0.5 the change is -0.1 * 0.04 - 0.1^2, of which the gradient explains the first part.
    method = IGDM(RSLAD(eps=0.1))
    with pytest.warns(UserWarning, match=re.escape("not locally linear, as an adversarially trained one is: 0.71 of")):
        method.build(student, Quadratic(-1.0), torch.full_like(images, 0.48), images=5)
    (note,) = method.notes
    assert "0.71 of its change at eps 0.1" in note
    method.build(student, Quadratic(0.5), images, images=5)
    assert method.notes == ()


def test_igdm_is_silent_with_a_robust_one(images, student, teacher, batch):
    x, y = batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IGDM(RSLAD(eps=0.1)).build(student, Quadratic(0.5), images, images=5)
        IGDM(RSLAD(eps=0.1, steps=1))(student, teacher, Batch(x, y, progress=0.0, seed=0))


def test_igdm_asks_for_a_teacher(images, student):
    with pytest.raises(TypeError, match="teacher must be a network for IGDM, got None"):
        IGDM().build(student, None, images, images=5)


class Attention(nn.Module):
    """Rows of an image attend to each other, by the kernel that PyTorch chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        tokens = x.flatten(1)[:, :16].unflatten(1, (4, 4))
        query = tokens.unflatten(2, (2, 2)).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(query, query, query)
        return self.last(attended.flatten(1) + self.inside(tokens, tokens, tokens)[0].flatten(1))


def test_attention_is_measured_all_the_same(batch):
    torch.manual_seed(0)
    network, x = Attention(), batch[0].float()
    assert 0 < remainder(network, x, eps=0.01) < 0.5


def test_a_diagnostic_that_fails_is_a_note(batch, student, teacher, monkeypatch):
    def fails(*args, **keywords):
        raise NotImplementedError("derivative for aten::some_kernel_backward is not implemented\nsecond line")

    monkeypatch.setattr(torch.autograd.functional, "jvp", fails)
    method = IGDM(RSLAD())
    note = (
        "how linear the teacher is could not be measured: derivative for aten::some_kernel_backward is not implemented"
    )
    with pytest.warns(UserWarning, match=note):
        method.build(student, teacher, batch[0], images=len(batch[0]))
    assert method.notes == (note,)
