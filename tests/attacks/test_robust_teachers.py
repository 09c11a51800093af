"""The inner maximisations of adversarial distillation are the same loop: AdaAD, of both networks, and RSLAD."""

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, softmax

from fastadv.attacks import pgd

EPS, STEP_SIZE, STEPS = 0.1, 0.03, 4


@pytest.fixture
def teacher(network) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).double()


def divergence(student_logits, teacher_logits):
    """KL(p_T || p_S), one value a sample."""
    return kl_div(log_softmax(student_logits, 1), softmax(teacher_logits, 1), reduction="none").sum(1)


def ascended(images, value):
    """Plain PGD on ``value`` of the images, from the images."""
    x = images
    for _ in range(STEPS):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(value(leaf).sum(), leaf)
        x = (images + (x + STEP_SIZE * grad.sign() - images).clamp(-EPS, EPS)).clamp(0, 1)
    return x


def test_adaad_attacks_student_and_teacher_together(network, teacher, images):
    student, images = network.eval().double(), images.double()
    how = {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS, "random_start": False}
    found = pgd([student, teacher], images, loss=lambda logits: divergence(*logits), **how)
    torch.testing.assert_close(found, ascended(images, lambda x: divergence(student(x), teacher(x))))
    # The teacher moves along: with its logits held at each point the attack ends elsewhere.
    held = ascended(images, lambda x: divergence(student(x), teacher(x).detach()))
    assert not torch.allclose(found, held)


def test_rslad_attacks_the_student_against_fixed_teacher_logits(network, teacher, images):
    student, images = network.eval().double(), images.double()
    clean = teacher(images).detach()
    how = {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS, "random_start": False}
    found = pgd(student, images, loss="kl", reference=clean, **how)
    torch.testing.assert_close(found, ascended(images, lambda x: divergence(student(x), clean)))
    assert (divergence(student(found), clean) > divergence(student(images), clean)).all()
