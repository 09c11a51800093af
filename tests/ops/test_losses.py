"""The losses against torch.nn.functional, at the edges of their inputs, by reduction and weight."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv
from fastadv.reference import attack_loss as attack_reference, divergence as reference
from tests.ops.cases import Draw


def logits(dtype: torch.dtype = torch.float32, samples: int = 6, classes: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    draw = Draw(dtype, seed=3)
    size = (samples, classes)
    return draw.normal(size, 2.0), draw.normal(size, 3.0), draw.classes(*size)


def wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.double() for t in tensors)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=2e-6)


def kl_rows(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    log_q, p = F.log_softmax(s / temperature, 1), F.softmax(t / temperature, 1)
    return F.kl_div(log_q, p, reduction="none").sum(1) * temperature**2


def ce_rows(s: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s, y, reduction="none")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("reduction", ["sum", "batchmean", "mean"])
def test_kl_distill_is_kl_div(reduction, temperature, backend):
    s, t, _ = logits()
    log_q, p = F.log_softmax(s.double() / temperature, 1), F.softmax(t.double() / temperature, 1)
    expected = F.kl_div(log_q, p, reduction=reduction) * temperature * temperature
    actual = fastadv.kl_distill(s, t, temperature=temperature, reduction=reduction)
    # Temperature squared multiplies what cancels.
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6 * temperature**2)


def test_kd_loss_is_cross_entropy_and_kl_div(backend):
    s, t, y = logits()
    s64, t64 = wide(s, t)
    expected = 0.3 * ce_rows(s64, y) + 0.7 * kl_rows(s64, t64, 2.0)
    close(fastadv.kd_loss(s, t, y, temperature=2.0, alpha=0.7, reduction="none"), expected)
    close(fastadv.kd_loss(s, t, y), (0.1 * ce_rows(s64, y) + 0.9 * kl_rows(s64, t64, 4.0)).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_js_distill_is_the_mean_of_two_divergences(temperature, backend):
    s, t, _ = logits()
    q, p = (F.softmax(x / temperature, 1) for x in wide(s, t))
    middle = ((p + q) / 2).log()
    halves = [F.kl_div(middle, x, reduction="none").sum(1) / 2 for x in (p, q)]
    close(fastadv.js_distill(s, t, temperature=temperature, reduction="none"), temperature**2 * sum(halves))
    close(fastadv.js_distill(t, s, temperature=temperature, reduction="none"), temperature**2 * sum(halves))


def test_dkd_loss_is_the_two_decoupled_divergences(backend):
    s, t, y = logits()
    hit = F.one_hot(y, s.shape[1]).bool()
    parts = []
    for x in wide(s, t):
        p = F.softmax(x / 4, 1)
        binary = torch.stack((p[hit], 1 - p[hit]), 1)
        parts.append((binary, F.softmax(x.masked_fill(hit, -torch.inf) / 4, 1)))
    (student, student_others), (teacher, teacher_others) = parts
    of_target = (teacher * (teacher / student).log()).sum(1)
    others = torch.where(hit, 0, teacher_others * (teacher_others / student_others).log()).sum(1)
    expected = 16 * (0.7 * of_target + 3.0 * others)
    close(fastadv.dkd_loss(s, t, y, alpha=0.7, beta=3.0, reduction="none"), expected)
    close(fastadv.dkd_loss(s, t, y, alpha=0.7, beta=3.0), expected.mean())


def test_dkd_of_two_sure_networks_is_no_negative_divergence(backend):
    student, teacher, target = torch.tensor([[20.0, 0.0]]), torch.tensor([[25.0, 0.0]]), torch.tensor([0])
    found = fastadv.dkd_loss(student, teacher, target, temperature=1.0, alpha=1.0, beta=0.0)
    wrong = torch.tensor([-20.0, -25.0], dtype=torch.float64).exp()  # of student and teacher, small beside 1
    expected = wrong[1] * (wrong[1] / wrong[0]).log() + wrong[0] - wrong[1]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_dkd_loss_of_saturated_logits_is_finite_and_right(backend):
    s = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    y = torch.tensor([0, 0])
    loss = fastadv.dkd_loss(s, -s.detach(), y, reduction="none")
    # In float64 and through log-odds nothing overflows; the published formula takes the logarithm of zero here.
    oracle = reference.dkd_loss(s.detach().double(), -s.detach().double(), y, reduction="none")
    close(loss, oracle)
    (grad,) = torch.autograd.grad(loss.sum(), s)
    assert grad.isfinite().all()
    assert grad.abs().sum() > 1


@pytest.mark.parametrize("classes", [3, 300])
def test_dkd_loss_without_other_classes(classes, backend):
    """The student's loss is infinite and its gradient finite; the teacher's loss is undefined, as in the reference."""
    draw = Draw(torch.float32, seed=2)
    s, t, y = draw.normal((3, classes)), draw.normal((3, classes)), torch.zeros(3, dtype=torch.int64)
    s[0, 1:], t[1, 1:] = -torch.inf, -torch.inf
    student, teacher = s.requires_grad_(), t.requires_grad_()
    loss = fastadv.dkd_loss(student, teacher, y, reduction="none")
    grads = torch.autograd.grad(loss.sum(), (student, teacher))
    assert loss[0] == torch.inf
    assert grads[0].isfinite().all()
    expected = reference.dkd_loss_value_and_grad(*wide(s.detach(), t.detach()), y)
    # Of a loss that is infinite or undefined the teacher has no gradient.
    for found, wanted in zip((loss, grads[0], grads[1][2]), (*expected[:2], expected[2][2]), strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_igdm_loss_is_the_divergence_of_differences(backend):
    s, t, _ = logits()
    s_minus, t_minus = s.flip(0), t.flip(1)
    expected = kl_rows(s.double() - s_minus.double(), t.double() - t_minus.double(), 1.0)
    close(fastadv.igdm_loss(s, s_minus, t, t_minus, reduction="none"), expected)
    close(fastadv.igdm_loss(s, s_minus, t, t_minus), expected.mean())


def test_loss_matching_is_the_squared_gap(backend):
    s, t, y = logits()
    s64, t64 = wide(s, t)
    expected = (ce_rows(s64, y) - ce_rows(t64, y)).square()
    close(fastadv.loss_matching(s, t, y, reduction="none"), expected)
    close(fastadv.loss_matching(s, t, y), expected.mean())


def test_attack_loss_is_what_it_says(backend):
    s, t, y = logits()
    s64, t64 = wide(s, t)
    close(fastadv.attack_loss(s, y), ce_rows(s64, y))
    close(fastadv.attack_loss(s, y, targeted=True), -ce_rows(s64, y))
    close(fastadv.attack_loss(s, kind="kl", reference=t), kl_rows(s64, t64, 1.0))
    close(fastadv.attack_loss(s, kind="kl", reference=t, targeted=True), -kl_rows(s64, t64, 1.0))


def others(s: Tensor, y: Tensor) -> Tensor:
    return s.masked_fill(F.one_hot(y, s.shape[1]).bool(), -math.inf)


def dlr(s: Tensor, y: Tensor) -> Tensor:
    """The difference of logits ratio as AutoAttack writes it."""
    ranked, order = s.sort(dim=1)
    first = (order[:, -1] == y).to(s.dtype)
    rows = torch.arange(len(y))
    gap = s[rows, y] - ranked[:, -2] * first - ranked[:, -1] * (1 - first)
    return -gap / (ranked[:, -1] - ranked[:, -3] + 1e-12)


def dlr_towards(s: Tensor, aim: Tensor, y: Tensor) -> Tensor:
    """The targeted one as AutoAttack writes it."""
    ranked, rows = s.sort(dim=1).values, torch.arange(len(y))
    spread = ranked[:, -1] - (ranked[:, -3] + ranked[:, -4]) / 2 + 1e-12
    return -(s[rows, y] - s[rows, aim]) / spread


RANKED = {
    "cw": (lambda s, y, aim: others(s, y).amax(1) - s[torch.arange(len(y)), y], {"kind": "cw"}),
    "cw-targeted": (
        lambda s, y, aim: s[torch.arange(len(y)), y] - others(s, y).amax(1),
        {"kind": "cw", "targeted": True},
    ),
    "dlr": (lambda s, y, aim: dlr(s, y), {"kind": "dlr"}),
    "dlr-targeted": (lambda s, y, aim: dlr_towards(s, y, aim), {"kind": "dlr", "targeted": True}),
}


@pytest.mark.parametrize("classes", [4, 5, 11, 40])
@pytest.mark.parametrize(("formula", "keywords"), RANKED.values(), ids=RANKED)
def test_ranked_attack_losses_are_the_published_ones(formula, keywords, classes, backend):
    s, _, y = logits(classes=classes, samples=50)
    aim = y.roll(1)
    if "dlr" in keywords.values() and "targeted" in keywords:
        keywords = keywords | {"reference": aim}
    exact = s.double().requires_grad_()
    expected = formula(exact, y, aim)
    (grad_logits,) = torch.autograd.grad(expected.sum(), exact)
    value, grad = fastadv.attack_loss_value_and_grad(s, y, **keywords)
    close(fastadv.attack_loss(s, y, **keywords), expected.detach())
    close(value, expected.detach())
    close(grad, grad_logits)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_of_equal_logits_the_lower_class_ranks_first(dtype, backend):
    s = torch.tensor([[3.0, 3, 1, 0, 0], [1, 1, 1, 1, 0], [0, 2, -0.0, 2, 2], [5, 5, 5, 5, 5]], dtype=dtype)
    # Whichever of the two highest is the target, the other is its rival; a third has the lower of them.
    for y, rivals in (([0, 1, 3, 4], [1, 0, 1, 0]), ([1, 4, 0, 0], [0, 0, 1, 1])):
        value, grad = fastadv.attack_loss_value_and_grad(s, torch.tensor(y), kind="cw")
        rows = torch.arange(4)
        close(value, s[rows, rivals] - s[rows, y])
        expected = torch.zeros(4, 5)
        expected[rows, rivals] += 1
        expected[rows, y] -= 1
        close(grad, expected)
    # Three at the top: the spread is all 1e-12, and the ratio moves with the first and the third of them.
    value, grad = fastadv.attack_loss_value_and_grad(s[1:3] / 2, torch.tensor([4, 0]), kind="dlr")
    close(value * 1e-12, torch.tensor([0.5, 1]))
    close(grad * 1e-24, torch.tensor([[-0.5, 0, 0.5, 0, 0], [0, -1, 0, 0, 1]]))
    towards, truth = torch.tensor([3, 1, 1]), torch.tensor([0, 0, 2])
    value, grad = fastadv.attack_loss_value_and_grad(s[:3], towards, kind="dlr", reference=truth, targeted=True)
    close(value, torch.tensor([-3 / 2.5, 0, 2]))
    close(grad[::2], torch.tensor([[-0.4 + 0.48, 0, -0.24, 0.4 - 0.24, 0], [1, 1 - 2, -1, 0, 1]]))
    close(grad[1] * 1e-12, torch.tensor([-1.0, 1, 0, 0, 0]))


@pytest.mark.parametrize("classes", [4, 64, 124])
@pytest.mark.parametrize("keywords", [keywords for _, keywords in RANKED.values()], ids=RANKED)
def test_rows_of_few_levels_are_ranked_as_by_a_stable_sort(keywords, classes, backend):
    draw = Draw(torch.float32, seed=classes)
    y, truth = draw.classes(8, classes), draw.classes(8, classes)
    if keywords["kind"] == "dlr" and "targeted" in keywords:
        keywords = keywords | {"reference": truth}
    for row, levels in enumerate([0, 0.2, 0.5, 1, 2, 3, 5, 9]):
        s = draw.normal((1, classes), levels).round()
        keywords = keywords | ({"reference": truth[row : row + 1]} if "reference" in keywords else {})
        exact = attack_reference.attack_loss_value_and_grad(s.double(), y[row : row + 1], **keywords)
        actual = fastadv.attack_loss_value_and_grad(s, y[row : row + 1], **keywords)
        for a, b in zip(actual, exact, strict=True):
            assert a.isfinite().all()
            torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=1e-6 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("keywords", [keywords for _, keywords in RANKED.values()], ids=RANKED)
def test_ranked_attack_losses_at_infinity(keywords, backend):
    """As floating point has it; a row whose loss is NaN has no gradient, whichever class made it so."""
    inf, nan = math.inf, math.nan
    s = torch.tensor(
        [
            [4.0, -inf, 1, 3, 0],  # A class that is excluded and plays no part.
            [-inf, 2, 1, 0, 0.5],  # The target, or the truth, is.
            [1, 2, -inf, -inf, -inf],  # The spread is infinite.
            [1, inf, 2, 0, 0],
            [1, 0, nan, 0, 0],  # Not among the largest numbers.
            [nan, 0, 1, 2, 3],
            [-inf] * 5,
            [inf, inf, inf, inf, 0],
            [1e4, -1e4, 0, 2, 1],
            [3e38, -3e38, 0, 2, 1],
        ]
    )
    y, aim = torch.tensor([0] * 10), torch.tensor([3] * 10)
    target, keywords = (
        (aim, keywords | {"reference": y}) if keywords == {"kind": "dlr", "targeted": True} else (y, keywords)
    )
    value, grad = fastadv.attack_loss_value_and_grad(s, target, **keywords)
    expected, grad_logits = attack_reference.attack_loss_value_and_grad(s, target, **keywords)
    torch.testing.assert_close(value, expected, equal_nan=True)
    torch.testing.assert_close(grad, grad_logits, equal_nan=True)
    assert value[[0, 8]].isfinite().all()
    assert value[4:7].isnan().all()
    assert torch.equal(grad.isnan().all(1), value.isnan())


LOSSES = {
    "kl_distill": lambda s, t, y, **keywords: fastadv.kl_distill(s, t, **keywords),
    "kd_loss": lambda s, t, y, **keywords: fastadv.kd_loss(s, t, y, **keywords),
    "js_distill": lambda s, t, y, **keywords: fastadv.js_distill(s, t, temperature=2.0, **keywords),
    "dkd_loss": lambda s, t, y, **keywords: fastadv.dkd_loss(s, t, y, **keywords),
    "igdm_loss": lambda s, t, y, **keywords: fastadv.igdm_loss(s, s.flip(1), t, t.flip(1), **keywords),
    "loss_matching": lambda s, t, y, **keywords: fastadv.loss_matching(s, t, y, **keywords),
}


# Their "mean" is over samples and classes, as in torch.nn.functional.kl_div.
PER_CLASS = ("kl_distill", "js_distill")


@pytest.mark.parametrize("name", LOSSES)
def test_reductions(name, backend):
    s, t, y = logits()
    each = LOSSES[name](s, t, y, reduction="none")
    assert each.shape == (6,)
    close(LOSSES[name](s, t, y, reduction="sum"), each.sum())
    close(LOSSES[name](s, t, y, reduction="batchmean"), each.sum() / 6)
    mean_over = 6 * 11 if name in PER_CLASS else 6
    close(LOSSES[name](s, t, y, reduction="mean"), each.sum() / mean_over)


@pytest.mark.parametrize("name", LOSSES)
def test_weight_multiplies_and_does_not_renormalise(name, backend):
    s, t, y = logits()
    weight = torch.tensor([0.0, 2.0, -1.0, 0.5, 3.0, 1.0])
    each = LOSSES[name](s, t, y, reduction="none")
    close(LOSSES[name](s, t, y, reduction="none", weight=weight), each * weight)
    for reduction in ("sum", "batchmean", "mean"):
        count = {"sum": 1, "batchmean": 6, "mean": 66 if name in PER_CLASS else 6}[reduction]
        close(LOSSES[name](s, t, y, reduction=reduction, weight=weight), (each * weight).sum() / count)


@pytest.mark.parametrize("name", LOSSES)
def test_empty_batch(name, backend):
    s, t, y = torch.empty(0, 4, requires_grad=True), torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    assert LOSSES[name](s, t, y, reduction="none").shape == (0,)
    assert LOSSES[name](s, t, y, reduction="sum").item() == 0
    LOSSES[name](s, t, y, reduction="sum").backward()
    assert s.grad.shape == (0, 4)


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_of_nothing_is_nan(name, reduction, backend):
    s, t, y = torch.empty(0, 4), torch.empty(0, 4), torch.empty(0, dtype=torch.int64)
    assert LOSSES[name](s, t, y, reduction=reduction).isnan()


def test_divergence_from_oneself_is_zero(backend):
    s, _, _ = logits()
    for dtype in (torch.float64, torch.float32, torch.float16):
        value, grad_student, grad_teacher = fastadv.kl_distill_value_and_grad(
            s.to(dtype), s.to(dtype), temperature=3.0, teacher_grad=True
        )
        assert value.abs().max() < 1e-6
        assert grad_student.abs().max() < 1e-6
        assert grad_teacher.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_saturated_logits(dtype, backend):
    """Probabilities of exactly one and zero: values are gaps of logits, gradients differences of corners."""
    high = 1e4
    s = torch.tensor([[high, -high, 0.0], [high, -high, 0.0], [-high, high, -high]], dtype=dtype)
    t = torch.tensor([[high, -high, 0.0], [-high, high, 0.0], [high, high, -high]], dtype=dtype)
    y = torch.tensor([0, 1, 1])
    kl, grad_student, grad_teacher = fastadv.kl_distill_value_and_grad(s, t, teacher_grad=True)
    # The last teacher halves its belief between two classes, of which the student rules one out.
    close(kl, torch.tensor([0.0, 2 * high, high - math.log(2)], dtype=torch.float64))
    close(grad_student, torch.tensor([[0.0, 0, 0], [1, -1, 0], [-0.5, 0.5, 0]]))
    close(grad_teacher, torch.tensor([[0.0, 0, 0], [0, 0, 0], [0.5 * high, -0.5 * high, 0]]))
    value, grad = fastadv.attack_loss_value_and_grad(s, y)
    close(value, torch.tensor([0.0, 2 * high, 0]))
    close(grad, torch.tensor([[0.0, 0, 0], [1, -1, 0], [0, 0, 0]]))
    matching = fastadv.loss_matching(s, t, y, reduction="none")
    close(matching, torch.tensor([0.0, 4 * high**2, math.log(2) ** 2], dtype=torch.float64))
    close(fastadv.kd_loss(s, t, y, temperature=1.0, alpha=0.5, reduction="none"), 0.5 * kl + 0.5 * value)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_class_the_teacher_excludes(temperature, backend):
    s = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    t = torch.tensor([[0.3, -math.inf, 1.0], [-math.inf, -math.inf, 2.0]])
    value, grad_student, grad_teacher = fastadv.kl_distill_value_and_grad(
        s, t, temperature=temperature, teacher_grad=True
    )
    p, log_q = F.softmax(t.double() / temperature, 1), F.log_softmax(s.double() / temperature, 1)
    expected = temperature**2 * (torch.xlogy(p, p) - p * log_q).sum(1)
    close(value, expected)
    close(grad_student, temperature * (log_q.exp() - p))
    assert grad_teacher.isfinite().all()
    assert grad_teacher[0, 1] == grad_teacher[1, 0] == grad_teacher[1, 1] == 0


def test_a_class_both_exclude_adds_nothing(backend):
    s = torch.tensor([[1.0, -math.inf, 0.5]])
    t = torch.tensor([[0.3, -math.inf, 1.0]])
    value, grad_student, grad_teacher = fastadv.kl_distill_value_and_grad(s, t, teacher_grad=True)
    kept = [0, 2]
    smaller = fastadv.kl_distill_value_and_grad(s[:, kept], t[:, kept], teacher_grad=True)
    for full, part in zip((value, grad_student[:, kept], grad_teacher[:, kept]), smaller, strict=True):
        close(full, part)
    assert grad_student[0, 1] == grad_teacher[0, 1] == 0


def test_a_class_the_student_excludes_costs_infinitely(backend):
    s = torch.tensor([[1.0, -math.inf, 0.5]])
    t = torch.tensor([[0.3, 0.0, 1.0]])
    assert fastadv.kl_distill(s, t).item() == math.inf
    assert fastadv.attack_loss(s, torch.tensor([1])).item() == math.inf


def test_nan_and_infinite_rows_stay_among_themselves(backend):
    s, t, y = logits()
    clean = {name: loss(s, t, y, reduction="none") for name, loss in LOSSES.items()}
    s[1, 4], t[2, 0], s[3, 2] = math.nan, math.nan, math.inf
    for name, loss in LOSSES.items():
        value = loss(s, t, y, reduction="none")
        assert value[1:4].isnan().all()
        assert torch.equal(value[[0, 4, 5]], clean[name][[0, 4, 5]])


@pytest.mark.parametrize("classes", [2, 40])
def test_the_gradients_of_a_row_whose_loss_is_nan_are_nan(classes, backend):
    """Those of the classes as well that are impossible beside an infinite logit."""
    t = Draw(torch.float32).normal((3, classes))
    t[1, -1] = math.inf
    s, t, y = torch.zeros_like(t).requires_grad_(), t.requires_grad_(), torch.zeros(3, dtype=torch.int64)
    for loss in (fastadv.kl_distill(s, t, reduction="none"), fastadv.kd_loss(s, t, y, reduction="none")):
        assert loss.isnan().tolist() == [False, True, False]
        for grad in torch.autograd.grad(loss.sum(), (s, t)):
            assert grad.isnan().all(1).tolist() == grad.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("shift", [(100.0, 100.0), (512.0, -512.0), (-4096.0, 4096.0)])
def test_a_shift_of_all_logits_of_a_row_changes_nothing(shift, backend):
    # Multiples of 2^-10 stay exact in float32 after the shift.
    s, t, y = logits()
    s, t = ((1024 * x).round() / 1024 for x in (s, t))
    for loss in LOSSES.values():
        close(loss(s + shift[0], t + shift[1], y, reduction="none"), loss(s, t, y, reduction="none"))


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_large_opposite_offsets_lose_nothing(offset, backend):
    s, t, y = logits()
    s, t = s + offset, t - offset
    for loss in LOSSES.values():
        close(loss(s, t, y, reduction="none"), loss(*wide(s, t), y, reduction="none"))


@pytest.mark.parametrize(
    "dtypes", [(torch.float16, torch.float32), (torch.bfloat16, torch.float16), (torch.float32, torch.float64)], ids=str
)
def test_mixed_dtypes_take_the_widest(dtypes, backend):
    s, t, y = logits()
    s, t = s.to(dtypes[0]).requires_grad_(), t.to(dtypes[1]).requires_grad_()
    for loss in LOSSES.values():
        value = loss(s, t, y, reduction="none")
        assert value.dtype is (torch.float64 if torch.float64 in dtypes else torch.float32)
        close(value, loss(*wide(s, t), y, reduction="none"))
        grad_student, grad_teacher = torch.autograd.grad(value.sum(), (s, t))
        assert (grad_student.dtype, grad_teacher.dtype) == dtypes


def test_a_reference_of_higher_precision_counts_fully(backend):
    s, t, _ = logits()
    half = s.to(torch.bfloat16)
    actual = fastadv.attack_loss(half, kind="kl", reference=t)
    close(actual, fastadv.attack_loss(half.double(), kind="kl", reference=t.double()))
