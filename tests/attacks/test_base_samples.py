"""The samples that bss starts from and the classes it goes to."""

import pytest
import torch
from torch.nn.functional import one_hot, softmax

from fastadv.attacks import bss_candidates, bss_targets
from fastadv.attacks.methods import bss_base_samples as base_samples
from tests.attacks.host_reads import HostReads


@pytest.fixture
def batch():
    """Logits of teacher and student, and classes of which both know about half."""
    teacher, student = torch.randn(200, 5), torch.randn(200, 5)
    target = torch.randint(0, 5, (200,))
    student[:120] += 4 * one_hot(target[:120], 5)
    teacher[40:] += 4 * one_hot(target[40:], 5)
    return teacher, student, target


def worth_it(teacher, student, target):
    """Places and scores, as published."""
    found = {}
    for n in range(len(target)):
        y = int(target[n])
        if int(teacher[n].argmax()) == y and int(student[n].argmax()) == y:
            gap = (softmax(teacher[n].double(), 0) - softmax(student[n].double(), 0)).square()
            found[n] = float(gap.sum() - gap[y])
    return found


def test_the_largest_differences_among_those_both_get_right(batch):
    scores = worth_it(*batch)
    assert 64 < len(scores) < 200
    samples, chosen = bss_candidates(*batch)
    assert samples.shape == chosen.shape == (64,)
    assert chosen.all()
    assert samples.tolist() == sorted(scores, key=scores.get, reverse=True)[:64]


def test_too_few_are_filled_up_and_told_apart(batch):
    teacher, student, target = (part[:50] for part in batch)
    scores = worth_it(teacher, student, target)
    assert 0 < len(scores) < 20
    samples, chosen = bss_candidates(teacher, student, target, size=20)
    assert samples[chosen].tolist() == sorted(scores, key=scores.get, reverse=True)
    assert len(samples.unique()) == 20
    samples, chosen = bss_candidates(teacher, student, target, size=64)
    assert sorted(samples.tolist()) == list(range(50))
    assert set(samples[chosen].tolist()) == set(scores)
    assert bss_candidates(teacher[:0], student[:0], target[:0])[0].shape == (0,)


def test_a_class_out_of_range_is_never_a_candidate(batch):
    teacher, student, _ = batch
    assert not bss_candidates(teacher, student, torch.full([200], 7))[1].any()


def test_targets_are_drawn_by_the_published_probabilities():
    logits = torch.tensor([[1.0, 3.0, 0.0, 2.0]], dtype=torch.float64)
    p = softmax(logits, 1)[0]
    expected = p / (1 - p.max())
    expected[1] = 0
    drawn = bss_targets(logits.expand(40000, 4), seed=1)
    share = drawn.bincount(minlength=4) / 40000
    assert share[1] == 0
    # Five standard deviations of a share.
    assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / 40000).sqrt()).all()


def test_proportions_survive_where_the_prediction_is_certain():
    logits = torch.tensor([[200.0, 1.0, 0.0]]).expand(20000, 3)  # 1 - max p is zero
    share = (bss_targets(logits, seed=2) == 1).double().mean()
    assert abs(share - torch.sigmoid(torch.tensor(1.0))) < 5 * (0.2 / 20000) ** 0.5


def test_the_last_other_class_is_always_drawn():
    logits = torch.tensor([[5.0, -60.0]]).expand(1000, 2)
    assert (bss_targets(logits, seed=0) == 1).all()


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_an_end_of_the_interval_draws_another_class_too(monkeypatch, end):
    monkeypatch.setattr(base_samples.Ball, "random_rows", lambda ball, x, *_: torch.full_like(x, end))
    assert bss_targets(torch.tensor([[5.0, 1.0, 2.0]])) == 2


def test_the_draw_belongs_to_identity_and_seed():
    logits = torch.randn(8, 10)
    drawn = bss_targets(logits, seed=3)
    assert torch.equal(drawn, bss_targets(logits, seed=torch.tensor(3)))
    order = torch.tensor([5, 1, 7, 0, 2, 3, 4, 6])
    assert torch.equal(drawn[order], bss_targets(logits[order], seed=3, sample_ids=order))
    other = bss_targets(logits, seed=4)
    assert not torch.equal(drawn, other)
    random_state = torch.get_rng_state()
    first, second = (bss_targets(torch.zeros(50, 10)) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(batch, dtype):
    teacher, student, target = batch
    assert bss_candidates(teacher.to(dtype), student.to(dtype), target)[1].all()
    drawn = bss_targets(teacher.to(dtype), seed=1)
    assert drawn.dtype == torch.int64
    assert (drawn != teacher.to(dtype).argmax(1)).all()


def test_nothing_is_read_back(batch, as_on_a_device):
    with HostReads() as probe:
        bss_targets(batch[0])
        bss_targets(batch[0], seed=torch.tensor(1), sample_ids=torch.arange(200))
    assert probe.found == []
    on_device = [part.to("meta") for part in batch]
    with HostReads() as probe:
        bss_candidates(*on_device)
        bss_targets(on_device[0])
    assert probe.found == []


def test_both_are_one_graph(batch):
    def together(teacher, student, target, seed):
        samples, chosen = bss_candidates(teacher, student, target)
        return samples, chosen, bss_targets(teacher, seed=seed)[samples]

    torch.compiler.reset()
    compiled = torch.compile(together, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(*batch, torch.tensor(5)), together(*batch, torch.tensor(5)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"teacher": torch.zeros(6)}, ValueError, r"teacher must have shape \[N, C\]"),
        ({"student": torch.zeros(6, 4)}, ValueError, "student must have the shape of teacher"),
        ({"student": torch.zeros(6, 5, dtype=torch.int64)}, TypeError, "student must be float64"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, ValueError, r"target must have shape \[6\]"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 2.5}, TypeError, "size must be an int, got float"),
    ],
)
def test_bad_arguments_of_candidates_are_named(change, error, message):
    logits = torch.zeros(6, 5)
    arguments = {"teacher": logits, "student": logits, "target": torch.zeros(6, dtype=torch.int64)} | change
    with pytest.raises(error, match=message):
        bss_candidates(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"logits": torch.zeros(6, 1)}, ValueError, r"logits must have shape \[N, C\] with C of at least 2"),
        ({"logits": torch.zeros(6, 5, dtype=torch.int64)}, TypeError, "logits must be float64"),
        ({"logits": torch.zeros(6, 5), "seed": 0.5}, TypeError, "seed must be an int"),
        ({"logits": torch.zeros(6, 5), "sample_ids": torch.arange(5)}, ValueError, "sample_ids must have shape"),
    ],
)
def test_bad_arguments_of_targets_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        bss_targets(**arguments)
