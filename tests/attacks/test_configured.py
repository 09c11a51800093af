"""The attacks as objects: what the functions do, checked where they are made."""

import copy
import importlib
import inspect
import pickle
import pkgutil

import pytest
import torch

from fastadv import attacks
from fastadv.attacks import APGD, BSS, FAB, MIFGSM, PGD, SVGD, VAT, apgd, bss, fab, methods, vat
from tests.attacks.every_attack import ATTACKS

for found in pkgutil.iter_modules(methods.__path__):  # also those whose import somebody forgot
    importlib.import_module(f"{methods.__name__}.{found.name}")
PAIRS = [(cls, cls.function) for cls in attacks.ATTACKS.values()]
# Those of (model, x, y, eps=...), of which the others differ.
LABELLED = [pair for pair in PAIRS if {"y", "eps"} <= inspect.signature(pair[1]).parameters.keys()]


def test_every_attack_has_its_object():
    for cls, function in PAIRS:
        missing = f"the names of {cls.__module__} in fastadv/attacks/__init__.py"
        assert getattr(attacks, function.__name__, None) is function, missing
        assert getattr(attacks, cls.__name__, None) is cls, missing
    public = {name: each for name, each in vars(attacks).items() if inspect.isfunction(each)}
    functions = {name for name, each in public.items() if {"model", "x"} <= inspect.signature(each).parameters.keys()}
    functions.remove("autoattack")  # an ensemble of them, which returns a report as well
    assert attacks.ATTACKS.keys() == functions
    assert functions <= {name.split()[0] for name in ATTACKS}
    assert all(cls.__name__ == function.__name__.upper().replace("_", "") for cls, function in PAIRS)


@pytest.mark.parametrize(("cls", "function"), PAIRS)
def test_takes_the_keywords_of_its_function_and_checks_each(cls, function):
    keywords = {
        name: each for name, each in inspect.signature(function).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    assert dict(inspect.signature(cls).parameters) == keywords
    assert keywords.keys() <= cls._checks.keys()
    # Every default passes its own check.
    cls(**{name: 0.1 if each.default is each.empty else each.default for name, each in keywords.items()})


@pytest.mark.parametrize(("cls", "function"), LABELLED)
def test_computes_what_the_function_does(cls, function, network, images, labels):
    attack = cls(eps=0.1, seed=1)
    expected = function(network, images, labels, eps=0.1, seed=1)
    assert torch.equal(attack(network, images, labels), expected)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(attack)))(network, images, labels), expected)
    assert torch.equal(attack(network, images), function(network, images, eps=0.1, seed=1))
    assert torch.equal(attack(network, images, labels, eps=0.2), function(network, images, labels, eps=0.2, seed=1))


def test_an_attack_without_labels_takes_none(network, images, labels):
    attack = VAT(eps=0.5, seed=1)
    assert torch.equal(attack(network, images), vat(network, images, eps=0.5, seed=1))
    with pytest.raises(TypeError, match="positional argument"):
        attack(network, images, labels)


def test_an_attack_on_a_class_asks_for_it(network, images, labels):
    attack = BSS(steps=4)
    assert torch.equal(attack(network, images, labels), bss(network, images, labels, steps=4))
    with pytest.raises(TypeError, match="target"):
        attack(network, images)


def test_shows_what_it_was_given():
    assert repr(PGD(eps=0.5, norm="l2")) == "PGD(eps=0.5, norm='l2')"
    assert repr(SVGD(eps=torch.ones(3), loss=torch.relu)) == "SVGD(eps=<float32 [3]>, loss=relu)"
    attack = PGD(eps=0.5)
    with pytest.raises(TypeError):
        attack.keywords["eps"] = 1.0
    assert attack.keywords == {"eps": 0.5}


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({}, TypeError, "PGD: missing a required keyword-only argument: 'eps'|PGD: missing a required argument: 'eps'"),
        ({"eps": 0.1, "alpha": 1}, TypeError, "PGD: got an unexpected keyword argument 'alpha'"),
        ({"eps": -1}, ValueError, "eps must not be negative"),
        ({"eps": None}, TypeError, "eps must be a float, got NoneType"),
        ({"eps": torch.tensor([0.1, -0.1])}, ValueError, "eps must be at least 0.0 for every sample"),
        ({"eps": torch.tensor(-0.1)}, ValueError, "eps must be at least 0.0 for every sample"),
        ({"eps": 0.1, "step_size": "1"}, TypeError, "step_size must be a float, got str"),
        ({"eps": 0.1, "steps": torch.tensor([1, -2])}, ValueError, "steps must be at least 0 for every sample"),
        ({"eps": 0.1, "norm": "l3"}, ValueError, "norm must be one of"),
        ({"eps": 0.1, "loss": "hinge"}, ValueError, "loss must be one of"),
        ({"eps": 0.1, "reference": 3}, TypeError, "reference must be a tensor"),
        ({"eps": 0.1, "targeted": "no"}, TypeError, "targeted must be a bool, got str"),
        ({"eps": 0.1, "best": 1}, TypeError, "best must be a bool, got int"),
        ({"eps": 0.1, "restarts": 0}, ValueError, "restarts must be at least 1"),
        ({"eps": 0.1, "bounds": (1, 0)}, ValueError, "bounds must be"),
        ({"eps": 0.1, "mode": "rough"}, ValueError, "mode must be one of"),
        ({"eps": 0.1, "seed": 0.5}, TypeError, "seed must be an int"),
        ({"eps": 0.1, "sample_ids": [1]}, TypeError, "sample_ids must be an int64 tensor"),
    ],
)
def test_wrong_keywords_are_named_where_the_object_is_made(keywords, error, message):
    with pytest.raises(error, match=message):
        PGD(**keywords)


def test_fab_without_targets_is_its_untargeted_form(network, images, labels):
    found = FAB(eps=0.1, steps=3, targets=None)(network, images, labels)
    assert torch.equal(found, fab(network, images, labels, eps=0.1, steps=3, targets=None))
    with pytest.raises(ValueError, match="targets must be at least 1"):
        FAB(targets=0)


def test_a_reference_is_logits_or_true_classes(network, images, labels):
    for how in ({"loss": "kl", "reference": torch.rand(6, 5)}, {"loss": "dlr", "targeted": True, "reference": labels}):
        target = () if how["loss"] == "kl" else ((labels + 1) % 5,)
        found = APGD(eps=0.1, seed=1, **how)(network, images, *target)
        assert torch.equal(found, apgd(network, images, *target, eps=0.1, seed=1, **how))


def test_says_whether_it_reads_labels():
    reads = {
        PGD(eps=0.1): True,
        PGD(eps=0.1, loss="kl"): False,
        PGD(eps=0.1, loss=lambda z: z.sum(1)): False,
        PGD(eps=0.1, loss=torch.nn.functional.cross_entropy): True,
        SVGD(eps=0.1, variant="released"): False,
        VAT(eps=0.1): False,
        BSS(): False,
    }
    assert all(attack.reads_labels == expected for attack, expected in reads.items())


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (SVGD, "particles", 0),
        (SVGD, "bandwidth", "mean"),
        (SVGD, "update", "l1"),
        (SVGD, "score_scale", "max"),
        (SVGD, "variant", "new"),
        (VAT, "xi", -1.0),
        (PGD, "l1_fraction", 0.0),
        (APGD, "rho", 0.0),
        (MIFGSM, "l1_fraction", 1.5),
        (MIFGSM, "decay", float("nan")),
    ],
)
def test_the_keywords_of_one_attack_are_checked_too(cls, name, value):
    with pytest.raises(ValueError, match=f"{name} must (be|lie)"):
        cls(eps=0.1, **{name: value})
