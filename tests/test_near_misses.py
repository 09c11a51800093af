"""Arguments and values that are nearly right are answered with the right name."""

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

import fastadv
from fastadv import attacks, distill
from fastadv.distill import Method
from fastadv.near_misses import did_you_mean
from fastadv.train.config.methods import METHODS

FUNCTIONS = [*(kind.function for kind in attacks.ATTACKS.values()), attacks.autoattack]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_attack_answers_other_libraries_names(function):
    names = inspect.signature(function).parameters
    wrong = {"epsilon": "eps", "alpha": "step_size", "nb_iter": "steps", "iters": "steps", "p": "norm"}
    for other, ours in wrong.items():
        near = f", did you mean {ours}\\?" if ours in names else ""
        with pytest.raises(
            TypeError, match=f"{function.__name__}.. got an unexpected keyword argument '{other}'{near}$"
        ):
            function(None, None, **{other: 1})


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_so_does_every_configured_attack(name):
    kind = attacks.ATTACKS[name]
    known = kind.__signature__.parameters
    if "step_size" in known:
        with pytest.raises(TypeError, match=r"'alpha', did you mean step_size\?"):
            kind(alpha=0.1)
    if "norm" in known:
        with pytest.raises(ValueError, match=r"norm must be one of .*, got 'Linf', did you mean linf\?"):
            kind(eps=0.1, norm="Linf")


@pytest.mark.parametrize("name", METHODS)
def test_so_does_every_method(name):
    kind = METHODS[name].kind
    known = [] if kind is distill.CrossEntropy else list(inspect.signature(kind).parameters)
    for ours in known:
        with pytest.raises(TypeError, match=rf"{kind.__name__}\(\) got an unexpected .* did you mean {ours}\?"):
            kind(**{f"{ours}_": 1})
    if "step_size" in known and "alpha" not in known:
        with pytest.raises(TypeError, match=r"did you mean step_size\?"):
            kind(alpha=1)


def test_a_method_of_ones_own_does_so_too_and_keeps_its_signature():
    class Own(Method):
        needs_teacher = False

        def __init__(self, weight: float = 1.0) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, student, teacher, batch):
            return {}

    assert str(inspect.signature(Own)) == "(weight: float = 1.0) -> None"
    with pytest.raises(TypeError, match=r"Own\(\) got an unexpected keyword argument 'wieght', did you mean weight\?"):
        Own(wieght=2)
    assert copy.deepcopy(Own(2.0)).weight == 2.0
    assert pickle.loads(pickle.dumps(distill.KD(temperature=2.0))).temperature == 2.0


def test_an_op_answers_too():
    x = torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"norm must be one of .*, got 'L2', did you mean l2\?"):
        fastadv.project(x, x, eps=1.0, norm="L2")


@pytest.mark.parametrize(
    ("name", "names", "clause"),
    [
        ("--metods", ["--methods", "--seeds"], ", did you mean --methods?"),
        ("--epsilon", ["--eps", "--steps"], ", did you mean --eps?"),
        ("--num-steps", ["--step-size", "--steps"], ", did you mean --steps?"),
        ("alpha", ["alpha_", "step_size"], ", did you mean step_size?"),
        ("Linf", ["linf", "l2"], ", did you mean linf?"),
        ("pdg", ["fgsm", "pgd"], ", did you mean pgd?"),
        ("colour", ["eps"], ""),
        (3, ["eps"], ""),
    ],
)
def test_the_nearest_name_is_that_of_a_synonym_or_of_the_letters(name, names, clause):
    assert did_you_mean(name, names) == clause


def test_a_compiled_loop_takes_the_attack_as_one_graph():
    model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        compiled = torch.compile(lambda x: attacks.pgd(model, x, y, eps=0.1, seed=0), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), attacks.pgd(model, x, y, eps=0.1, seed=0))
