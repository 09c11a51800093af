"""Gradients flow through constant parameters, not into them."""

import pytest
import torch

from fastadv.distill.parts.isolation import frozen_parameters


def test_constant_parameters(student, batch):
    x = batch[0].requires_grad_()
    student.layers[4].bias.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in student.parameters()]
    with frozen_parameters([student, torch.relu]):
        loss = student(x).square().sum()
    loss.backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in student.parameters())
    assert [parameter.requires_grad for parameter in student.parameters()] == flags


def test_the_parameters_are_restored_after_an_error(student):
    with pytest.raises(ZeroDivisionError), frozen_parameters([student]):
        raise ZeroDivisionError
    assert all(parameter.requires_grad for parameter in student.parameters())
