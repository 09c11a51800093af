"""autoattack: its verdict, what it returns, and that neither batch nor order nor interruption moves it."""

import importlib
import itertools
import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from fastadv import attacks
from fastadv.attacks.methods import autoattack as ensemble
from tests.attacks.same_buffer import SameBuffer
from tests.attacks.small_network import trained

RADII = {"linf": 0.04, "l2": 0.5, "l1": 4.0}
ORDER = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


@pytest.fixture
def short(monkeypatch):
    """Attacks of a few steps."""
    monkeypatch.setattr(ensemble, "_STEPS", 10)
    monkeypatch.setattr(ensemble, "_QUERIES", 30)


@pytest.fixture(scope="module")
def subject():
    return trained()


@pytest.mark.parametrize("norm", RADII)
def test_what_is_broken_is_misclassified_near_by_and_the_rest_is_as_it_was(short, subject, norm):
    network, x, y = subject
    images, result = attacks.autoattack(network, x, y, eps=RADII[norm], norm=norm, batch_size=16)
    with torch.no_grad():
        right, stands = network(x).argmax(1) == y, network(images).argmax(1) == y
    broken = result.broken_by >= 0
    assert torch.equal(result.broken_by == -2, ~right)
    assert torch.equal(broken, right & ~stands)
    assert 0 < broken.sum() < right.sum()
    assert torch.equal(images[~broken], x[~broken])
    distances = (images.double() - x.double()).flatten(1).norm(ORDER[norm], dim=1)
    assert (distances <= RADII[norm] * (1 + 1e-6)).all()
    assert images.min() >= 0
    assert images.max() <= 1
    accuracies = [result.clean_accuracy, *(stage.robust_accuracy for stage in result.stages)]
    assert accuracies == sorted(accuracies, reverse=True)
    assert result.robust_accuracy == accuracies[-1] == stands.logical_and(right).sum().item() / len(x)
    assert sum(stage.broken for stage in result.stages) == broken.sum()
    assert [stage.attack for stage in result.stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]


def test_the_verdict_of_the_published_package(pyautoattack, monkeypatch):
    """With fewer steps and queries on both sides; those it has are in the next test."""
    network, x, y = trained(10, images=20)
    monkeypatch.setattr(ensemble, "_STEPS", 30)
    monkeypatch.setattr(ensemble, "_QUERIES", 50)
    module = importlib.import_module("pyautoattack.autoattack")
    for name in ("APGDAttack", "APGDAttack_targeted", "FABAttack_PT"):
        shorter = partial(lambda attack, *given, **how: attack(*given, **{**how, "n_iter": 30}), getattr(module, name))
        monkeypatch.setattr(module, name, shorter)
    theirs = pyautoattack.AutoAttack(network, norm="Linf", eps=0.06, seed=0)
    theirs.square.n_queries = 50
    adversarial, _ = theirs.run_standard_evaluation(x, y, batch_size=100)
    with torch.no_grad():
        stands = network(adversarial).argmax(1) == y
    result = attacks.autoattack(network, x, y, eps=0.06)[1]
    assert 4 <= stands.sum() <= 16
    assert ((result.broken_by == -1) != stands).sum() <= 1


@pytest.mark.parametrize(
    ("version", "norm"), [*(("standard", norm) for norm in RADII), *itertools.product(["plus", "rand"], ["linf", "l2"])]
)
def test_the_numbers_of_the_published_package(pyautoattack, version, norm):
    """Of steps, queries, restarts and targets, as its own constructor sets them; of l1 ours has "standard" alone."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 11))
    x = torch.rand(2, 3, 2, 2)
    with torch.no_grad():
        y = network(x).argmax(1)
    theirs = pyautoattack.AutoAttack(network, norm=norm.capitalize(), version=version, eps=0.1)
    ours = ensemble.AutoAttack(network, x, y, norm=norm, version=version, eps=0.1)
    assert list(ours.attacks) == theirs.attacks_to_run
    # Each phase of l1 looks at its first iterate as well.
    phases = 3 if norm == "l1" else 1
    for name in ours.attacks:
        search, copies, targets = ours._search(name)
        if name == "square":
            assert (search.evaluations, copies) == (theirs.square.n_queries + 1, theirs.square.n_restarts)
            continue
        if name.startswith("apgd"):
            published = theirs.apgd_targeted if name == "apgd-t" else theirs.apgd
            assert (search._rho, search._eot) == (published.thr_decr, published.eot_iter)
            assert search.evaluations == published.n_iter_orig + phases
        else:
            published = theirs.fab
            assert search.evaluations == published.n_iter + 1
        # Before it runs "fab-t" it sets the restarts of FAB to one.
        restarts = 1 if name == "fab-t" else published.n_restarts
        aims = published.n_target_classes if name.endswith("-t") else 1
        assert copies == restarts * aims
        assert targets is None if aims == 1 else targets.shape == (2, aims)


@pytest.mark.parametrize("norm", RADII)
def test_batch_and_order_do_not_matter(short, subject, norm):
    network, x, y = subject
    network, x = network.double(), x.double()
    try:
        how = {"eps": RADII[norm], "norm": norm, "version": ["apgd-ce", "fab-t", "square"]}
        images, result = attacks.autoattack(network, x, y, batch_size=64, **how)
        order = torch.randperm(len(x))
        other, again = attacks.autoattack(network, x[order], y[order], batch_size=7, sample_ids=order, **how)
        assert torch.equal(again.broken_by, result.broken_by[order])
        torch.testing.assert_close(other, images[order], atol=1e-9, rtol=0)
    finally:
        network.float()


def test_it_goes_on_from_any_pass(short, subject):
    network, x, y = subject
    how = {"eps": 0.04, "batch_size": 16}
    whole = ensemble.AutoAttack(network, x, y, **how)
    whole.run()
    parts = ensemble.AutoAttack(network, x, y, **how)
    passes = 0
    while parts.advance():
        passes += 1
        if passes % 37 == 0:
            saved = parts.state_dict()
            parts.advance()  # what comes after does not reach back into what was saved
            parts = ensemble.AutoAttack(network, x, y, **how)
            parts.load_state_dict(saved)
    assert passes > 100
    assert torch.equal(parts.images, whole.images)
    assert torch.equal(parts.broken_by, whole.broken_by)
    assert [stage[:4] for stage in parts.result().stages] == [stage[:4] for stage in whole.result().stages]


def test_the_time_left_is_of_the_evaluations_made(short, subject, monkeypatch):
    """Not of those that fallen images did without."""
    network, x, y = subject
    monkeypatch.setattr(ensemble, "rows_in_a_pass", lambda batch_size, *_: batch_size)
    evaluation = ensemble.AutoAttack(network, x, y, eps=1.0, version=["apgd-ce", "fab-t"])
    standing = int((evaluation.broken_by == -1).sum())
    evaluation.advance()
    fallen = int((evaluation.broken_by == 0).sum())
    assert 0 < fallen < standing
    pass_seconds = evaluation.result().stages[0].seconds
    apgd, fab = 2 * 10 * (standing - fallen), 3 * 11 * 5 * (standing - fallen)
    assert evaluation.seconds_left() == pytest.approx(pass_seconds / (2 * standing) * (apgd + fab))


def test_images_and_verdicts_so_far_are_of_the_same_pass(short, subject):
    network, x, y = subject
    changed = []

    def watch(evaluation):
        changed.append(int((evaluation.images != x).flatten(1).any(1).sum()))
        assert changed[-1] == (evaluation.broken_by >= 0).sum()

    ensemble.AutoAttack(network, x, y, eps=0.04, version=["apgd-ce", "fab-t"]).run(watch)
    assert len(set(changed)) > 2


def test_another_seed_is_another_draw(short, subject):
    network, x, y = subject
    images = [attacks.autoattack(network, x, y, eps=0.4, version=["square"], seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_a_copy_is_attacked_and_the_model_judges(short, subject, monkeypatch):
    network, x, y = subject
    images, result = attacks.autoattack(network, x, y, eps=0.04, attack_dtype="bfloat16")
    with torch.no_grad():
        assert torch.equal(network(images).argmax(1) == y, result.broken_by == -1)
    plain = attacks.autoattack(network, x, y, eps=0.04)[1]
    assert ((plain.broken_by == -1) != (result.broken_by == -1)).sum() <= 2

    class Wrong(nn.Module):
        """Calls every image wrong, whatever it is."""

        def forward(self, x):
            return -network(x)

    monkeypatch.setattr(ensemble, "freeze", lambda model, dtype: Wrong())
    images, result = attacks.autoattack(network, x, y, eps=1e-4, attack_dtype="float32", version=["square"])
    assert torch.equal(images, x)
    assert (result.broken_by < 0).all()


@pytest.mark.parametrize(
    ("version", "names"),
    [("plus", ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]), ("rand", ["apgd-ce", "apgd-dlr"])],
)
def test_the_other_versions(short, subject, version, names):
    network, x, y = subject
    result = attacks.autoattack(network, x[:8], y[:8], eps=0.03, version=version)[1]
    assert [stage.attack for stage in result.stages] == names


def test_a_model_that_errs_at_random_is_asked_once_an_attack(short):
    """Whatever it is shown, it is wrong once in four times: on the clean image, and after each of two attacks."""

    def model(x):
        right = torch.rand(len(x)) > 0.25
        return nn.functional.one_hot((~right).long(), 3) + 1e-3 * x.flatten(1)[:, :3]

    x, y = torch.rand(400, 3, 1, 1), torch.zeros(400, dtype=torch.int64)
    result = attacks.autoattack(model, x, y, eps=0.1, version="rand")[1]
    assert result.clean_accuracy == pytest.approx(0.75, abs=0.07)
    assert result.robust_accuracy == pytest.approx(0.75**3, abs=0.07)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_and_images_that_are_not_square(short, classes, norm):
    network, x, y = trained(classes, shape=(2, 9, 14), images=12)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = attacks.autoattack(network, x, y, eps=2.5 * RADII[norm], norm=norm)[1]
    attacked = [stage.attack for stage in result.stages]
    assert ("apgd-t" in attacked) == (classes >= 4)
    assert any("apgd-t is left out" in str(each.message) for each in caught) == (classes < 4)
    assert any("apgd-t is left out" in each for each in result.warnings) == (classes < 4)
    assert (result.broken_by >= 0).any()


@pytest.mark.parametrize("named", [["apgd-t"], ["apgd-dlr", "apgd-t"]])
def test_attacks_that_all_need_more_classes_are_no_verdict(named):
    network, x, y = trained(2, shape=(1, 6, 6), images=4)
    with pytest.raises(ValueError, match=f"^version must name an attack of 2 classes.*: {', '.join(named)} needs"):
        attacks.autoattack(network, x, y, eps=0.1, version=named)


def test_rows_without_sides_have_no_windows(short):
    network = nn.Linear(20, 5)
    x = torch.rand(6, 20)
    y = network(x).argmax(1)
    with pytest.raises(ValueError, match=r"x must be images \[N, C, H, W\] for square"):
        attacks.autoattack(network, x, y, eps=0.1)
    result = attacks.autoattack(network, x, y, eps=0.3, version=["apgd-ce", "apgd-t", "fab-t"])[1]
    assert (result.broken_by >= 0).any()


def test_a_model_that_gives_one_buffer_again_and_again(short, subject):
    network, x, y = subject
    how = {"eps": 0.04, "version": ["apgd-ce", "fab-t"], "batch_size": 10}
    expected, result = attacks.autoattack(network, x, y, **how)
    found, same = attacks.autoattack(SameBuffer(network), x, y, **how)
    assert torch.equal(same.broken_by, result.broken_by)
    assert torch.equal(found, expected)


def test_nothing_to_attack(short, subject):
    network, x, _ = subject
    images, result = attacks.autoattack(network, x, (network(x).argmax(1) + 1) % 6, eps=0.04)
    assert torch.equal(images, x)
    assert result.clean_accuracy == result.robust_accuracy == 0
    assert [stage.attacked for stage in result.stages] == [0] * 4


def test_no_images(subject):
    network, x, y = subject
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, result = attacks.autoattack(network, x[:0], y[:0], eps=0.04)
    assert images.shape == x[:0].shape
    assert [stage.attack for stage in result.stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]


class TestWarnings:
    def found(self, model, x, y, **how):
        with pytest.warns(UserWarning, match="autoattack: ") as caught:
            result = attacks.autoattack(model, x, y, **{"eps": 0.04, "version": ["apgd-ce"], **how})[1]
        assert {f"autoattack: {each}" for each in result.warnings} <= {str(each.message) for each in caught}
        return " ".join(result.warnings)

    def test_probabilities(self, short, subject):
        network, x, y = subject
        assert "probabilities" in self.found(nn.Sequential(network, nn.Softmax(1)), x, y)

    def test_a_randomised_model(self, short, subject):
        network, x, y = subject
        assert "differ from call to call" in self.found(lambda x: network(x + 0.1 * torch.randn_like(x)), x, y)

    def test_a_model_that_differentiates_inside(self, short, subject):
        network, x, y = subject

        def purified(x):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                (grad,) = torch.autograd.grad(network(leaf).logsumexp(1).sum(), leaf)
            return network(x + 1e-3 * grad)

        assert "inside its own forward" in self.found(purified, x, y, version=["square"])

    def test_a_model_that_differentiates_inside_by_torch_func(self, short, subject):
        network, x, y = subject

        def purified(x):
            return network(x + 1e-3 * torch.func.grad(lambda x: network(x).logsumexp(1).sum())(x))

        assert "inside its own forward" in self.found(purified, x, y, version=["square"])

    def test_gradients_that_are_zero_and_a_square_that_beats_them(self, short, subject):
        network, x, y = subject

        def hidden(x):
            return network((x * 255).round() / 255)

        found = self.found(lambda x: hidden(x) + 0 * x.flatten(1)[:, :1], x, y, version=["apgd-t", "square"], eps=0.4)
        assert "zero everywhere" in found
        assert "gradients may be masked" in found

    @pytest.mark.parametrize("norm", RADII)
    def test_a_search_counts_once_whatever_its_phases(self, short, norm):
        def flat(x):
            return torch.tensor([4.0, 3.0, 2.0, 1.0]).expand(len(x), -1) + 0 * x.flatten(1)[:, :4]

        x, y = torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.int64)
        found = self.found(flat, x, y, norm=norm, version=["apgd-t"])
        assert "the start of 15 searches" in found  # three wrong classes each

    def test_none_for_an_ordinary_model(self, short, subject):
        network, x, y = subject
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert attacks.autoattack(network, x, y, eps=0.04)[1].warnings == ()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"version": "fast"}, ValueError, "version must be one of"),
        ({"version": ["apgd"]}, ValueError, "version must be one of"),
        ({"version": None}, TypeError, "version must be a str or a sequence of names of attacks, got NoneType"),
        ({"version": 5}, TypeError, "version must be a str or a sequence of names of attacks, got int"),
        ({"version": []}, ValueError, "version must name at least one attack"),
        ({"version": ["square", "square"]}, ValueError, "version must name each attack once"),
        ({"version": "plus", "norm": "l1"}, ValueError, 'version must be "standard" or names'),
        ({"norm": "l3"}, ValueError, "norm must be one of"),
        ({"eps": -1.0}, ValueError, "eps must not be negative"),
        ({"eps": torch.ones(2)}, TypeError, "eps must be a float"),
        ({"attack_dtype": "int8"}, ValueError, "attack_dtype must be one of"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"seed": torch.tensor(1)}, TypeError, "seed must be an int or None"),
        ({"sample_ids": torch.arange(3)}, ValueError, "sample_ids must have shape"),
    ],
)
def test_errors(subject, change, error, match):
    network, x, y = subject
    with pytest.raises(error, match=match):
        attacks.autoattack(network, x, y, **{"eps": 0.1, **change})


def test_labels_are_given(subject):
    network, x, _ = subject
    with pytest.raises(TypeError, match="y must be an int64 tensor, got NoneType"):
        attacks.autoattack(network, x, None, eps=0.1)


def test_a_copy_needs_a_module(subject):
    network, x, y = subject
    with pytest.raises(TypeError, match="attack_dtype must be None for a model that is no module"):
        attacks.autoattack(lambda x: network(x), x, y, eps=0.1, attack_dtype="float32")
