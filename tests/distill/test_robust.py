"""The robust methods against their formulas and a PGD written out, and how little of a trace they leave."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

import fastadv
from fastadv.distill import ARD, IAD, IADII, IGDM, PGDAT, RSLAD, SAAD, TRADES, AdaAD, AdaIAD, Batch
from tests.attacks.host_reads import HostReads
from tests.attacks.recorded import record_on_the_cpu

EPS, STEP_SIZE, STEPS, SEED = 0.1, 0.03, 3, 7
ATTACK = {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS}
NEAR = 0.001 * 3**0.5


def kl(student, teacher, temperature=1.0):
    """T^2 KL(p_teacher || p_student), one value a sample."""
    p, log_q = softmax(teacher / temperature, 1), log_softmax(student / temperature, 1)
    return temperature**2 * kl_div(log_q, p, reduction="none").sum(1)


class Written:
    """A step as its paper has it: attack, then the networks' logits, which the losses below read."""

    def __init__(self, student, teacher, x, y, value, *, start_eps, attack_mode, progress):
        self.y, self.progress, self.student, self.teacher = y, progress, student, teacher.eval()
        attacked = copy.deepcopy(student).train(attack_mode == "train")
        adversarial = fastadv.random_start(x, eps=start_eps, seed=SEED)
        clean = attacked(x).detach() if attack_mode == "eval" else None
        for _ in range(STEPS):
            leaf = adversarial.clone().requires_grad_()
            (grad,) = torch.autograd.grad(value(attacked(leaf), teacher, leaf, x, y, clean).sum(), leaf)
            moved = leaf.detach() + STEP_SIZE * grad.sign()
            adversarial = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1)
        self.x, self.x_adv = x, adversarial
        self.s, self.s_adv = student(x), student(adversarial)
        with torch.no_grad():
            self.t, self.t_adv = teacher(x), teacher(adversarial)


def of_labels(student, teacher, leaf, x, y, clean):
    return cross_entropy(student, y, reduction="none")


def of_teacher_on_clean(student, teacher, leaf, x, y, clean):
    return kl(student, teacher(x).detach())


def of_both(student, teacher, leaf, x, y, clean):
    return kl(student, teacher(leaf))


def of_itself(student, teacher, leaf, x, y, clean):
    return kl(student, clean)


def of_expansion(scale):
    """Both, the teacher's true logit to first order around x."""

    def value(student, teacher, leaf, x, y, clean):
        at = x.clone().requires_grad_()
        logits = teacher(at)
        (slope,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), at)
        true = torch.nn.functional.one_hot(y, logits.shape[1])
        return kl(student, logits.detach() + scale * (slope * (leaf - x)).flatten(1).sum(1)[:, None] * true)

    return value


def saad(w, *, alpha, beta):
    entropy = -(softmax(w.t_adv, 1) * log_softmax(w.t_adv, 1)).sum(1)
    uncertain = (entropy - entropy.min()) / (entropy.max() - entropy.min())
    along_teacher = (w.t_adv - w.teacher(2 * w.x - w.x_adv)).detach()
    matching = kl(w.s_adv - w.student(2 * w.x - w.x_adv), along_teacher)
    weighed = 5 * (entropy - entropy.min()) * (kl(w.s_adv, w.t_adv) + alpha * w.progress * matching)
    return (weighed + beta * (1 - uncertain) * kl(w.s, w.t)).mean()


def trust(w, beta=0.1):
    return softmax(w.t_adv, 1)[torch.arange(len(w.y)), w.y] ** beta


def iad(w, *, clean=None):
    own = (1 - trust(w)) * kl(w.s_adv, w.s if clean is None else clean)
    both = kl(w.s_adv, w.t, 2.0).mean() + (own.mean() if w.progress >= 0.3 else 0)
    return 0.9 * both + 0.1 * cross_entropy(w.s, w.y)


def iad_ii(w, standard=None):
    a = trust(w) if w.progress >= 0.2 else torch.ones(len(w.y))
    robust = a * kl(w.s_adv, w.t_adv, 2.0) + 4 * (1 - a) * kl(w.s_adv, w.s)
    if standard is None:
        return 0.5 * cross_entropy(w.s_adv, w.y) + 0.5 * robust.mean()
    plain = kl(w.s_adv, standard(w.x_adv).detach(), 2.0).mean()
    return 0.25 * cross_entropy(w.s_adv, w.y) + 0.5 * robust.mean() + 0.25 * plain


def adaiad(w):
    own = (1 - trust(w)) * kl(w.s_adv, w.s) if w.progress >= 0.3 else torch.zeros(1)
    return kl(w.s_adv, w.t_adv, 5.0).mean() + own.mean()


def igdm(w, base, *, weight, beta=1.0, gamma=1.0):
    d = w.x_adv - w.x
    plus, minus = w.x + beta * d, w.x - gamma * d
    along_teacher = (w.teacher(plus) - w.teacher(minus)).detach()
    return base + weight * kl(w.student(plus) - w.student(minus), along_teacher).mean()


# Method, what its attack ascends, radius of the start, loss.
CASES = {
    "ard": (ARD(30.0, **ATTACK), of_labels, EPS, lambda w: kl(w.s_adv, w.t, 30.0).mean()),
    "ard in eval mode": (
        ARD(5.0, 0.7, attack_mode="eval", **ATTACK),
        of_labels,
        EPS,
        lambda w: 0.7 * kl(w.s_adv, w.t, 5.0).mean() + 0.3 * cross_entropy(w.s, w.y),
    ),
    "rslad": (
        RSLAD(**ATTACK),
        of_teacher_on_clean,
        NEAR,
        lambda w: (5 * kl(w.s_adv, w.t).mean() + kl(w.s, w.t).mean()) / 6,
    ),
    "rslad scaled": (
        RSLAD(scale=0.1, **ATTACK),
        of_teacher_on_clean,
        NEAR,
        lambda w: 0.1 * (5 * kl(w.s_adv, w.t).mean() + kl(w.s, w.t).mean()) / 6,
    ),
    "adaad": (AdaAD(**ATTACK), of_both, NEAR, lambda w: kl(w.s_adv, w.t_adv).mean()),
    "adaad of both": (
        AdaAD(0.6, attack_mode="train", **ATTACK),
        of_both,
        NEAR,
        lambda w: 0.6 * kl(w.s_adv, w.t_adv).mean() + 0.4 * kl(w.s, w.t).mean(),
    ),
    "adaad of labels": (
        AdaAD(inner="student", **ATTACK),
        of_labels,
        NEAR,
        lambda w: kl(w.s_adv, w.t_adv).mean(),
    ),
    "adaad linear": (AdaAD(inner="linear", **ATTACK), of_expansion(1.0), NEAR, lambda w: kl(w.s_adv, w.t_adv).mean()),
    "saad": (SAAD(**ATTACK), of_expansion(1.0), NEAR, lambda w: saad(w, alpha=20.0, beta=0.0)),
    "saad-c": (
        SAAD(3.0, 0.5, inner_scale=0.5, **ATTACK),
        of_expansion(0.5),
        NEAR,
        lambda w: saad(w, alpha=3.0, beta=0.5),
    ),
    "iad": (IAD(2.0, 0.9, **ATTACK), of_labels, EPS, iad),
    "iad detached": (
        IAD(2.0, 0.9, detach_clean=True, **ATTACK),
        of_labels,
        EPS,
        lambda w: iad(w, clean=w.s.detach()),
    ),
    "iad-ii": (IADII(temperature=2.0, **ATTACK), of_labels, EPS, iad_ii),
    "adaiad": (AdaIAD(5.0, **ATTACK), of_both, NEAR, adaiad),
    "pgd-at": (PGDAT(**ATTACK), of_labels, EPS, lambda w: cross_entropy(w.s_adv, w.y)),
    "trades": (
        TRADES(**ATTACK),
        of_itself,
        NEAR,
        lambda w: cross_entropy(w.s, w.y) + 6 * kl(w.s_adv, w.s).mean(),
    ),
    "adaad igdm": (
        IGDM(AdaAD(**ATTACK)),
        of_both,
        NEAR,
        lambda w: igdm(w, kl(w.s_adv, w.t_adv).mean(), weight=20 * w.progress),
    ),
    "rslad igdm": (
        IGDM(RSLAD(**ATTACK), alpha=2.0, ramp="none", beta=0.5, gamma=1.5),
        of_teacher_on_clean,
        NEAR,
        lambda w: igdm(w, (5 * kl(w.s_adv, w.t).mean() + kl(w.s, w.t).mean()) / 6, weight=2.0, beta=0.5, gamma=1.5),
    ),
    "ard igdm": (
        IGDM(ARD(30.0, **ATTACK), alpha=1.0),
        of_labels,
        EPS,
        lambda w: igdm(w, kl(w.s_adv, w.t, 30.0).mean(), weight=w.progress),
    ),
    "iad igdm": (IGDM(IAD(2.0, 0.9, **ATTACK)), of_labels, EPS, lambda w: igdm(w, iad(w), weight=20 * w.progress)),
}


def robust(name):
    """The method itself, without what IGDM puts on top."""
    method = CASES[name][0]
    return method.base if isinstance(method, IGDM) else method


def every_method(*, teacher=None):
    names = [name for name, case in CASES.items() if teacher in (None, case[0].needs_teacher)]
    return pytest.mark.parametrize("name", names, ids=lambda name: name.replace(" ", "-"))


@pytest.mark.parametrize("progress", [0.1, 0.5])
@every_method()
def test_loss_and_gradient_by_hand(name, progress, student, teacher, batch):
    method, value, start_eps, loss = CASES[name]
    student, teacher, (x, y) = student.double(), teacher.double(), batch
    x = x.double()
    mode = robust(name).attack_mode
    written = Written(
        copy.deepcopy(student), teacher, x, y, value, start_eps=start_eps, attack_mode=mode, progress=progress
    )
    expected = loss(written)
    expected.backward()
    gradients = [parameter.grad for parameter in written.student.parameters()]

    terms = method(student, teacher, Batch(x, y, progress=progress, seed=SEED))
    terms["loss"].backward()
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close([parameter.grad for parameter in student.parameters()], gradients)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert [term for term, value in terms.items() if value.requires_grad] == ["loss"]
    assert all(value.dim() == 0 for value in terms.values())


@pytest.mark.parametrize("progress", [0.1, 0.5])
def test_iad_ii_with_a_standard_teacher(progress, student, teacher, batch):
    standard = copy.deepcopy(teacher).double()
    standard.layers[4].reset_parameters()
    method = IADII(standard, temperature=2.0, **ATTACK)
    assert list(method.parameters()) == []
    student, teacher, (x, y) = student.double(), teacher.double(), batch
    terms = method(copy.deepcopy(student), teacher, Batch(x.double(), y, progress=progress, seed=SEED))
    assert standard.training
    assert standard.layers[1].num_batches_tracked == 0
    written = Written(student, teacher, x.double(), y, of_labels, start_eps=EPS, attack_mode="train", progress=progress)
    torch.testing.assert_close(terms["loss"], iad_ii(written, standard.eval()))


def test_iad_ii_gives_no_weight_to_a_teacher_that_is_not_there(student, teacher, batch):
    method, (x, y) = IADII(standard_weight=0.1, **ATTACK), batch
    with pytest.raises(ValueError, match=r"standard_weight must be 0 without a standard_teacher, got 0.1"):
        method.build(student, teacher, x, images=len(x))
    with pytest.raises(ValueError, match="without a standard_teacher"):
        method(student, teacher, Batch(x, y, seed=SEED, progress=0.0))


def test_iad_ii_says_that_it_has_no_second_teacher(student, teacher, batch):
    alone, whole = IADII(**ATTACK), IADII(teacher, **ATTACK)
    for method in (alone, whole):
        method.build(student, teacher, batch[0], images=len(batch[0]))
    assert alone.notes == ("without a second teacher its share goes to the labels, which is not published",)
    assert whole.notes == ()


@pytest.mark.parametrize(("method", "begin"), [(IAD(**ATTACK), 0.3), (IADII(**ATTACK), 0.2), (AdaIAD(**ATTACK), 0.3)])
def test_the_student_listens_to_itself_after_a_share_of_training(method, begin, student, teacher, batch):
    own = [
        method(student, teacher, Batch(*batch, progress=progress, seed=SEED))["self"]
        for progress in (0.0, begin - 1e-6, begin, 0.99)
    ]
    assert own[0] == own[1] == 0
    assert own[2] > 0
    assert own[3] > 0


def test_the_ramp_of_igdm(student, teacher, batch):
    student.eval()
    for ramp, weights in (("linear", (0.0, 5.0)), ("none", (20.0, 20.0))):
        for progress, weight in zip((0.0, 0.25), weights, strict=True):
            method = IGDM(RSLAD(**ATTACK), ramp=ramp)
            terms = method(student, teacher, Batch(*batch, progress=progress, seed=SEED))
            torch.testing.assert_close(terms["loss"], terms["base"] + weight * terms["igdm"])
            assert terms["igdm"] > 0
            torch.testing.assert_close(
                terms["base"],
                RSLAD(**ATTACK)(student, teacher, Batch(*batch, seed=SEED, progress=0.0))["loss"].detach(),
            )


@pytest.mark.parametrize(
    ("name", "student_forwards", "teacher_forwards"),
    [
        ("ard", 1, 1),
        ("rslad", 2, 1),
        ("adaad", 1, STEPS + 1),
        ("pgd-at", 1, 0),
        ("adaad igdm", 2, STEPS + 2),
        ("rslad igdm", 4, 3),
        ("ard igdm", 2, 3),
    ],
)
def test_forward_passes(name, student_forwards, teacher_forwards, student, teacher, batch):
    CASES[name][0](student, teacher, Batch(*batch, progress=0.5, seed=0))
    assert student.rows == [5] * (STEPS + student_forwards)
    assert teacher.rows == [5] * teacher_forwards


@every_method()
def test_networks_keep_their_modes_and_what_the_attack_must_not_touch(name, student, teacher, batch):
    student.layers[2].eval()
    flags = [[module.training for module in network.modules()] for network in (student, teacher)]
    before = copy.deepcopy(teacher.state_dict())
    random_state = torch.get_rng_state()
    CASES[name][0](student, teacher, Batch(*batch, progress=0.5, seed=0))
    assert [[module.training for module in network.modules()] for network in (student, teacher)] == flags
    assert all(parameter.grad is None for parameter in (*student.parameters(), *teacher.parameters()))
    torch.testing.assert_close(teacher.state_dict(), before, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    # In eval mode BatchNorm's statistics know nothing of the attack.
    attack_forwards = len(student.rows) - student.layers[1].num_batches_tracked
    assert attack_forwards == (0 if robust(name).attack_mode == "train" else STEPS + (name == "trades"))


@every_method()
def test_the_seed_decides(name, student, teacher, batch):
    student.eval()
    terms = [
        CASES[name][0](student, teacher, Batch(*batch, seed=seed, progress=0.0)) for seed in (1, torch.tensor(1), 2)
    ]
    assert terms[0]["loss"] == terms[1]["loss"]
    assert terms[0]["loss"] != terms[2]["loss"]


@every_method()
def test_no_value_is_read_back(name, student, teacher, batch):
    """On the meta device there is no value to read: an item(), a branch on a tensor or a boolean index raises."""
    x, y, student, teacher = (each.to("meta") for each in (*batch, student, teacher))
    with HostReads() as probe:
        terms = CASES[name][0](student, teacher, Batch(x, y, progress=0.5, seed=0))
        terms["loss"].backward()
    assert terms["loss"].is_meta
    assert probe.found == []


@every_method()
def test_half_precision(name, student, teacher, batch):
    x, y = batch
    with torch.autocast("cpu", torch.bfloat16):
        terms = CASES[name][0](student, teacher, Batch(x, y, progress=0.5, seed=0))
    terms["loss"].backward()
    assert terms["loss"].dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
    half = Batch(x.bfloat16(), y, progress=0.5, seed=0)
    loss = CASES[name][0](student.bfloat16(), teacher.bfloat16(), half)["loss"]
    assert loss.isfinite()
    assert loss.dtype == torch.float32


def test_channels_last_reaches_the_networks(student, teacher, batch):
    x, y = batch
    x = x.repeat(1, 2, 1, 1).to(memory_format=torch.channels_last)
    layouts, squeeze = [], nn.Conv2d(2, 1, 1)

    def watching(x):
        layouts.append(x.is_contiguous(memory_format=torch.channels_last))
        return student(squeeze(x))

    IGDM(RSLAD(**ATTACK))(watching, lambda x: teacher(squeeze(x)), Batch(x, y, progress=0.0, seed=0))
    assert layouts == [True] * (STEPS + 3)


@every_method(teacher=True)
def test_a_teacher_is_needed(name, student, batch):
    method = CASES[name][0]
    with pytest.raises(TypeError, match=f"teacher must be a network for {type(method).__name__}, got None"):
        method(student, None, Batch(*batch, progress=0.0, seed=0))


@every_method(teacher=False)
def test_no_teacher_is_needed(name, student, batch):
    assert CASES[name][0](student, None, Batch(*batch, progress=0.0, seed=0))["loss"] > 0


@pytest.mark.parametrize("method", [ARD, RSLAD, AdaAD, IAD, IADII, AdaIAD, PGDAT, TRADES])
def test_the_frozen_copy_is_attacked_as_the_student_is_at_each_step(method, student, teacher, batch):
    student, (x, y) = student.double(), batch
    teacher.double()
    plain, frozen = (method(attack_mode=mode, **ATTACK) for mode in ("eval", "frozen"))
    frozen.build(student, teacher, x.double(), images=len(x))
    assert student.training
    assert frozen.state_dict() == {}
    assert list(frozen.parameters()) == []
    found = []
    for step in range(2):
        moved = [
            each.views(student, teacher, Batch(x.double(), y, seed=step, progress=0.0)).adversarial
            for each in (plain, frozen)
        ]
        torch.testing.assert_close(*moved)
        found.append(moved[1])
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.mul_(-1.5)
        student(x.double() + 1)  # which moves BatchNorm's statistics
    rows = len(student.rows)
    frozen.views(student, teacher, Batch(x.double(), y, seed=0, progress=0.0))
    assert len(student.rows) - rows == 0
    assert not torch.equal(
        frozen.views(student, teacher, Batch(x.double(), y, seed=0, progress=0.0)).adversarial, found[0]
    )


def test_the_frozen_copy_may_compute_in_bfloat16(student, batch):
    x, y = batch
    losses = {}
    for mode in ("frozen", "frozen-bfloat16"):
        method = PGDAT(attack_mode=mode, **ATTACK)
        method.build(student, None, x, images=len(x))
        found = method.views(student, None, Batch(x, y, seed=0)).adversarial
        assert found.dtype == torch.float32
        losses[mode] = torch.nn.functional.cross_entropy(student(found), y).item()
    (copy,) = method.copies
    assert torch.bfloat16 in {parameter.dtype for parameter in copy.parameters()}
    clean = torch.nn.functional.cross_entropy(student(x), y).item()
    assert losses["frozen-bfloat16"] - clean > 0.9 * (losses["frozen"] - clean)
    assert losses["frozen"] > clean


@pytest.mark.parametrize("mode", ["frozen", "frozen-bfloat16"])
def test_there_is_no_frozen_copy_before_build(student, teacher, batch, mode):
    with pytest.raises(ValueError, match=f"attack_mode='{mode}' needs the copy that build"):
        AdaAD(attack_mode=mode, **ATTACK)(student, teacher, Batch(*batch, progress=0.0, seed=0))


def test_a_start_is_never_outside_of_a_small_ball(student, teacher, batch):
    method = RSLAD(eps=1e-4, step_size=1e-4, steps=1)
    views = method.views(student, teacher, Batch(*batch, progress=0.0, seed=0))
    assert (views.adversarial - views.x).abs().max() <= 1e-4 * (1 + 1e-3)


@pytest.mark.parametrize("method", [ARD, RSLAD, AdaAD, IAD, IADII, AdaIAD, PGDAT, TRADES])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": -0.1}, ValueError, "eps must not be negative"),
        ({"eps": "8/255"}, TypeError, "eps must be a float"),
        ({"step_size": "a"}, TypeError, "step_size must be a float"),
        ({"steps": 1.5}, TypeError, "steps must be an int"),
        (
            {"attack_mode": "both"},
            ValueError,
            "attack_mode must be one of 'eval', 'frozen', 'frozen-bfloat16', 'train', got 'both'",
        ),
    ],
)
def test_bad_arguments_of_the_attack_are_named(method, options, error, message):
    with pytest.raises(error, match=message):
        method(**options)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (ARD, {"temperature": 0.0}, ValueError, "temperature must be positive"),
        (RSLAD, {"adversarial_weight": "1"}, TypeError, "adversarial_weight must be a float"),
        (IAD, {"beta": -1.0}, ValueError, "beta must not be negative"),
        (IAD, {"detach_clean": 1}, TypeError, "detach_clean must be a bool"),
        (IADII, {"standard_weight": "0.1"}, TypeError, "standard_weight must be a float"),
        (IGDM, {"base": nn.MSELoss()}, TypeError, "base must be a robust method such as AdaAD, got MSELoss"),
        (PGDAT, {"eps": 8.0}, ValueError, "eps must be at most 1, the width of the box"),
        (RSLAD, {"step_size": -0.01}, ValueError, r"step_size must not be negative, got -0\.01"),
        (TRADES, {"step_size": 2}, ValueError, "step_size must be at most 1, the width of the box"),
        (IAD, {"begin": 80}, ValueError, "begin must be a share of the training"),
        (IADII, {"begin": 1.1}, ValueError, "begin must be a share of the training"),
        (AdaIAD, {"begin": -0.1}, ValueError, "begin must not be negative"),
        (IGDM, {"ramp": "cosine"}, ValueError, "ramp must be one of 'linear', 'none', got 'cosine'"),
        (TRADES, {"beta": float("nan")}, ValueError, "beta must be a number"),
    ],
)
def test_bad_arguments_are_named(method, options, error, message):
    with pytest.raises(error, match=message):
        method(**options)


@pytest.mark.parametrize("make", [ARD, IAD, AdaAD, AdaIAD, PGDAT])
def test_a_clean_forward_moves_the_statistics_and_not_the_loss(make, student, teacher, batch):
    seen = {}
    for clean_forward in (False, True):
        network = copy.deepcopy(student)
        method = make(clean_forward=clean_forward, **{**ATTACK, "attack_mode": "eval"})
        terms = method(network, teacher, Batch(*batch, progress=0.1, seed=SEED))
        seen[clean_forward] = terms["loss"].item(), network.layers[1]
    assert seen[False][0] == seen[True][0]
    assert seen[True][1].num_batches_tracked == seen[False][1].num_batches_tracked + 1
    assert not torch.equal(seen[True][1].running_mean, seen[False][1].running_mean)


@pytest.mark.parametrize("method", [AdaAD(inner="linear", **ATTACK), SAAD(**ATTACK)], ids=["adaad", "saad"])
def test_what_is_no_class_is_named(method, student, teacher, batch):
    x, y = batch
    for wrong, error in ((y + 100, ValueError), (y.int(), TypeError)):
        with pytest.raises(error, match="y must"):
            method(student, teacher, Batch(x, wrong, progress=0.5, seed=SEED))


def test_classes_of_a_cross_entropy_are_whole_numbers(student, teacher, batch):
    x, y = batch
    with pytest.raises(TypeError, match=r"y must be int64, got torch\.int32"):
        TRADES(**ATTACK)(student, teacher, Batch(x, y.int(), seed=SEED))


@pytest.mark.parametrize("method", [AdaAD(inner="linear", **ATTACK), SAAD(**ATTACK)], ids=["adaad", "saad"])
def test_the_expansion_asks_the_teacher_once_whatever_the_steps(method, student, teacher, batch):
    method(student, teacher, Batch(*batch, progress=0.5, seed=SEED))
    once = len(teacher.rows)
    method.ascent = fastadv.attacks.PGD(**{**method.ascent.keywords, "steps": 2 * STEPS})
    method(student, teacher, Batch(*batch, progress=0.5, seed=SEED))
    assert len(teacher.rows) == 2 * once


def test_an_expansion_keeps_its_memory_for_each_shape_and_its_graphs(student, teacher, batch, monkeypatch):
    """The last batch of an epoch may be smaller: with other memory each of them would be another graph."""
    record_on_the_cpu(monkeypatch)
    method, (x, y) = AdaAD(inner="linear", **ATTACK), batch
    method.capture_ascents(x.device)
    plain = AdaAD(inner="linear", **ATTACK)
    held = []
    for size in (5, 3) * 3:
        given = Batch(x[:size], y[:size], progress=0.0, seed=SEED)
        mine, other = (each.views(student, teacher, given).adversarial for each in (method, plain))
        assert torch.equal(mine, other)
        held.append(method._expansion.slope)
    assert all(first is second for first, second in itertools.pairwise(held[::2]))
    assert method.ascent.graphs == 2
