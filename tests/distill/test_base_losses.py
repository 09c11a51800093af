"""CrossEntropy and KD by hand."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fastadv.distill import KD, Batch, CrossEntropy, Method


def test_cross_entropy(student, batch):
    x, y = batch
    terms = CrossEntropy()(student.eval(), None, Batch(x, y, progress=0.0, seed=0))
    assert list(terms) == ["loss"]
    torch.testing.assert_close(terms["loss"], cross_entropy(student(x), y))


def test_kd(student, teacher, batch):
    x, y = batch
    teacher.layers[1].train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    terms = KD(temperature=3.0, alpha=0.7)(student, teacher, Batch(x, y, progress=0.0, seed=0))
    terms["loss"].backward()
    assert (student.rows, teacher.rows) == ([5], [5])
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training for module in teacher.modules())
    torch.testing.assert_close(dict(teacher.state_dict()), before, atol=0, rtol=0)

    of_student, of_teacher = student(x), teacher.eval()(x)
    soft = kl_div(log_softmax(of_student / 3, 1), softmax(of_teacher / 3, 1), reduction="batchmean")
    expected = 0.3 * cross_entropy(of_student, y) + 0.7 * 9 * soft
    torch.testing.assert_close(terms["loss"], expected)


def test_methods_say_whether_they_need_a_teacher(student, batch):
    assert not CrossEntropy().needs_teacher
    assert KD().needs_teacher
    assert isinstance(KD(), Method)
    with pytest.raises(TypeError, match="teacher must be a network for KD, got None"):
        KD()(student, None, Batch(*batch, progress=0.0, seed=0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"temperature": "4"}, TypeError, "temperature must be a float"),
        ({"alpha": float("nan")}, ValueError, "alpha must be a number"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        KD(**arguments)


def test_half_precision_logits_give_a_float32_loss(student, teacher, batch):
    x, y = batch
    with torch.autocast("cpu", torch.bfloat16):
        terms = KD()(student, teacher, Batch(x, y, progress=0.0, seed=0))
    assert terms["loss"].dtype == torch.float32
