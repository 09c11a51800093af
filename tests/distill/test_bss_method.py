"""BSS: its loss by hand, which images it attacks, its schedules."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from fastadv.attacks import bss_targets
from fastadv.distill import BSS, Batch
from tests.attacks.host_reads import HostReads

SEED = 7
OPTIONS = {"temperature": 2.0, "kd_start": 3.0, "kd_end": 1.0, "bss_weight": 2.5, "bss_end": 0.8}


@pytest.fixture
def known(teacher) -> tuple[Tensor, Tensor]:
    """12 images and classes, of which the teacher knows 10; its statistics are theirs."""
    x = torch.rand(12, 1, 8, 8)
    for _ in range(80):
        teacher(x)
    y = teacher.eval()(x).argmax(1)
    y[3], y[8] = (y[3] + 1) % 4, (y[8] + 1) % 4
    teacher.train().rows.clear()
    return x, y


@pytest.fixture
def close(teacher, known):
    """A student that often agrees with the teacher."""
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return student


def kl(student, teacher, temperature):
    return kl_div(log_softmax(student / temperature, 1), softmax(teacher / temperature, 1), reduction="none").sum(1)


def moved(network, x, target, *, steps, step_size):
    """The published attack, one image at a time."""
    found = []
    for image, k in zip(x, target, strict=True):
        at, base = image[None], network(image[None]).argmax(1)
        for _ in range(steps):
            leaf = at.clone().requires_grad_()
            logits = network(leaf)
            if logits.argmax(1) != base or base == k:
                break
            gap = logits[0, base] - logits[0, k]
            (grad,) = torch.autograd.grad(-gap.sum(), leaf)
            at = (at + step_size * (gap.detach() + 1e-4) * grad / grad.norm()).clamp(0, 1)
        found.append(at)
    return torch.cat(found)


@pytest.mark.parametrize("size", [4, 12])
def test_loss_and_gradient_by_hand(size, close, teacher, known):
    student, teacher, (x, y) = close.double(), teacher.double(), known
    x, t = x.double(), 0.4
    method = BSS(attack_size=size, steps=5, step_size=0.4, **OPTIONS)
    terms = method(copy.deepcopy(student), teacher, Batch(x, y, progress=t, seed=SEED))
    terms["loss"].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())

    teacher = teacher.eval().requires_grad_(False)
    of_student, of_teacher = student(x), teacher(x)
    right = [n for n in range(12) if of_student[n].argmax() == y[n] and of_teacher[n].argmax() == y[n]]
    assert 4 < len(right) < 12
    gaps = (softmax(of_student.detach(), 1) - softmax(of_teacher, 1)).square()
    for n in range(12):
        gaps[n, y[n]] = 0
    worth = torch.tensor(sorted(right, key=lambda n: -gaps[n].sum())[:size])
    others = torch.tensor([n for n in range(12) if n not in worth], dtype=torch.int64)
    targets = bss_targets(of_teacher[worth], seed=SEED, sample_ids=worth)
    boundary = moved(teacher, x[worth], targets, steps=5, step_size=0.4)
    assert (boundary != x[worth]).flatten(1).any(1).all()
    fill = x[others][: size - len(worth)]
    of_boundary = student(torch.cat((boundary, fill)))[: len(worth)]

    matching = kl(of_boundary, teacher(boundary), 2.0).mean()
    soft = kl(of_student, of_teacher, 2.0).mean()
    hard = cross_entropy(of_student, y)
    loss = hard + (3 - 2 * t) * soft + 2.5 * (1 - t / 0.8) * matching
    torch.testing.assert_close(terms, {"loss": loss, "ce": hard, "kd": soft, "bss": matching})
    assert [name for name, term in terms.items() if term.requires_grad] == ["loss"]


def test_the_gradient_is_that_of_the_published_cross_entropy(close, teacher, known):
    x, y = known
    close, teacher = close.double().eval(), teacher.double().eval()
    terms = BSS(bss_weight=0.0)(close, teacher, Batch(x.double(), y, progress=0.0, seed=0))
    found = torch.autograd.grad(terms["loss"], list(close.parameters()))
    logits = close(x.double())
    soft = -(softmax(teacher(x.double()).detach() / 3, 1) * log_softmax(logits / 3, 1)).sum(1).mean()
    expected = torch.autograd.grad(cross_entropy(logits, y) + 4 * soft, list(close.parameters()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("progress", "kd_weight", "bss_weight"), [(0.0, 4.0, 2.0), (0.3, 3.1, 1.2), (0.75, 1.75, 0.0), (0.9, 1.3, 0.0)]
)
def test_published_schedules(progress, kd_weight, bss_weight, close, teacher, known):
    close.eval()
    terms = BSS()(close, teacher, Batch(*known, progress=progress, seed=SEED))
    torch.testing.assert_close(terms["loss"], terms["ce"] + kd_weight * terms["kd"] + bss_weight * terms["bss"])
    # Once the weight is zero nobody looks at boundary samples.
    assert len(close.rows) == (1 if bss_weight == 0 else 2)
    assert (len(teacher.rows) > 2) == (bss_weight > 0)
    assert (terms["bss"] > 0) == (bss_weight > 0)


def test_what_is_not_worth_it_neither_moves_nor_weighs(close, teacher, known):
    x = known[0]
    close.eval()
    wrong = (teacher.eval()(x).argmax(1) + 1) % 4
    _, boundary, terms = BSS(attack_size=5).distil(close, teacher, Batch(x, wrong, seed=SEED, progress=0.0))
    assert not boundary.chosen.any()
    assert terms["bss"] == 0
    assert len(boundary.places) == close.rows[-1] == 5
    torch.testing.assert_close(boundary.teacher.logits, teacher(x)[boundary.places])
    terms["loss"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in close.parameters())


def test_the_seed_decides(close, teacher, known):
    close.eval()
    terms = [
        BSS(step_size=0.5)(close, teacher, Batch(*known, seed=seed, progress=0.0)) for seed in (1, torch.tensor(1), 2)
    ]
    assert terms[0]["loss"] == terms[1]["loss"]
    assert terms[0]["loss"] != terms[2]["loss"]


def test_networks_keep_their_modes_and_the_teacher_its_statistics(close, teacher, known):
    teacher.layers[1].eval()
    flags = [module.training for module in teacher.modules()]
    before, random_state = copy.deepcopy(teacher.state_dict()), torch.get_rng_state()
    seen = close.layers[1].num_batches_tracked.clone()
    BSS()(close, teacher, Batch(*known, progress=0.0, seed=0))
    assert [module.training for module in teacher.modules()] == flags
    torch.testing.assert_close(teacher.state_dict(), before, atol=0, rtol=0)
    assert all(module.training for module in close.modules())
    assert close.layers[1].num_batches_tracked == seen + 2
    assert torch.equal(torch.get_rng_state(), random_state)


def test_half_precision(close, teacher, known):
    x, y = known
    with torch.autocast("cpu", torch.bfloat16):
        terms = BSS()(close, teacher, Batch(x, y, progress=0.0, seed=0))
    terms["loss"].backward()
    assert terms["bss"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in close.parameters())
    loss = BSS()(close.bfloat16(), teacher.bfloat16(), Batch(x.bfloat16(), y, progress=0.0, seed=0))["loss"]
    assert loss.isfinite()
    assert loss.dtype == torch.float32


def test_no_value_is_read_back(student, teacher, batch):
    """On the meta device there is no value to read: an item(), a branch on a tensor or a boolean index raises."""
    x, y, student, teacher = (each.to("meta") for each in (*batch, student, teacher))
    with HostReads() as probe:
        terms = BSS()(student, teacher, Batch(x, y, progress=0.0, seed=0))
        terms["loss"].backward()
    assert terms["loss"].is_meta
    assert probe.found == []


def test_a_teacher_is_needed(student, batch):
    with pytest.raises(TypeError, match="teacher must be a network for BSS, got None"):
        BSS()(student, None, Batch(*batch, progress=0.0, seed=0))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"bss_weight": -1.0}, ValueError, "bss_weight must not be negative"),
        ({"bss_end": 0.0}, ValueError, "bss_end must be positive"),
        ({"bss_end": 60}, ValueError, "bss_end must be a share of the training"),
        ({"kd_start": "4"}, TypeError, "kd_start must be a float"),
        ({"attack_size": 0}, ValueError, "attack_size must be at least 1, got 0"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be positive"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        BSS(**options)


def test_a_module_of_a_linear_layer_is_enough(known):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    assert BSS()(network, copy.deepcopy(network), Batch(*known, progress=0.0, seed=0))["kd"] == 0
