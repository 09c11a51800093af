"""DKD and TripletKD by hand: losses of logits, which any network has."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fastadv.distill import DKD, Batch, Features, TripletKD

Y = torch.tensor([0, 1, 2, 1, 0, 3])


def of_logits(logits):
    return Features((), (), logits[:, :0], logits)


@pytest.fixture
def logits(_seeded):
    return torch.randn(6, 4).double(), torch.randn(6, 4).double()


def test_dkd_rises(logits):
    student, teacher = logits
    target, others = 0.0, 0.0
    for s, t, y in zip(student, teacher, Y, strict=True):
        p_s, p_t = softmax(s / 2, 0), softmax(t / 2, 0)
        target += p_t[y] * (p_t[y] / p_s[y]).log() + (1 - p_t[y]) * ((1 - p_t[y]) / (1 - p_s[y])).log()
        rest = torch.arange(4) != y
        q_s, q_t = p_s[rest] / p_s[rest].sum(), p_t[rest] / p_t[rest].sum()
        others += (q_t * (q_t / q_s).log()).sum()
    decoupled = 4 * (0.5 * target + 3 * others) / 6
    method = DKD(temperature=2.0, alpha=0.5, beta=3.0, gamma=0.7, ramp=0.4)
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        loss = method.on_features(of_logits(student), of_logits(teacher), Batch(student, Y, progress, seed=0))
        torch.testing.assert_close(loss, 0.7 * cross_entropy(student, Y) + share * decoupled)
    at_once = DKD(temperature=2.0, alpha=0.5, beta=3.0, gamma=0.0, ramp=0.0)
    loss = at_once.on_features(of_logits(student), of_logits(teacher), Batch(student, Y, 0.0, seed=0))
    torch.testing.assert_close(loss, torch.as_tensor(decoupled))


def test_triplet_with_one_choice_each(logits):
    """Two classes of one image each: the negative of either is the other."""
    student, teacher = (x[:2] for x in logits)
    student.requires_grad_()
    positive = (teacher - student + 1e-6).norm(dim=1)
    negative = (teacher - student.flip(0) + 1e-6).norm(dim=1)
    triplet = (positive - negative + 5).clamp(min=0).mean()
    soft = kl_div(log_softmax(student, 1), softmax(teacher, 1), reduction="batchmean")
    expected = soft + cross_entropy(student, Y[:2]) + 2 * triplet
    loss = TripletKD().on_features(of_logits(student), of_logits(teacher), Batch(student, Y[:2], seed=3, progress=0.0))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student))


def test_triplets_take_each_image_of_another_class_as_often(logits):
    """A margin beyond every distance makes the loss linear in the distance to the negative."""
    student, teacher = logits
    method = TripletKD(beta=1.0, gamma=0.0, alpha=0.0, margin=100.0)
    losses = [
        method.on_features(of_logits(student), of_logits(teacher), Batch(student, Y, seed=seed, progress=0.0))
        for seed in range(400)
    ]
    expected, spread = 100.0, 0.0
    for i in range(6):
        away = torch.stack([(teacher[i] - student[j] + 1e-6).norm() for j in range(6) if Y[j] != Y[i]])
        expected = expected + ((teacher[i] - student[i] + 1e-6).norm() - away.mean()) / 6
        spread = spread + away.var(unbiased=False) / 36
    assert len(set(map(float, losses))) > 100
    torch.testing.assert_close(torch.stack(losses).mean(), expected, atol=4 * float(spread / 400) ** 0.5, rtol=0)


def test_an_image_whose_batch_has_no_other_class_counts_zero(logits):
    student, teacher = logits
    method = TripletKD(beta=1.0, gamma=0.0, alpha=0.0)
    batch = Batch(student, torch.zeros(6, dtype=torch.int64), seed=3, progress=0.0)
    assert method.on_features(of_logits(student), of_logits(teacher), batch) == 0


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (DKD, {"temperature": -1.0}, ValueError, "temperature must be positive"),
        (DKD, {"ramp": -0.1}, ValueError, "ramp must not be negative"),
        (DKD, {"ramp": 20}, ValueError, "ramp must be a share of the training"),
        (DKD, {"beta": None}, TypeError, "beta must be a float, got NoneType"),
        (TripletKD, {"margin": 0.0}, ValueError, "margin must be positive"),
    ],
)
def test_bad_arguments_are_named(method, options, error, message):
    with pytest.raises(error, match=message):
        method(**options)
