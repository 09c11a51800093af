"""Callables that hold one module directly and the network by way of something else: both go into eval mode."""

import copy
import functools
import types
import warnings

import pytest
import torch
from torch import nn

from fastadv.attacks import Logits, Normalized, pgd
from fastadv.attacks.model.found_modules import modules_in
from fastadv.attacks.model.networks import KeepMode
from fastadv.attacks.model.wrappers import Normalize

NETWORK = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 5))
norm = Normalize(0.5, 0.5)


class Trainer:
    """Holds its network as people's own training code does; calling it gives logits."""

    def __init__(self, network):
        self.model = network
        self.models = {"teacher": [network]}
        self.parts = types.SimpleNamespace(student=network)

    def __call__(self, x):
        return self.predict(x)

    def predict(self, x):
        return self.model(x)

    @property
    def best(self):
        return self.parts.student

    def closure(self):
        return lambda x: self.model(norm(x))


def library(network):
    """A Python module with a network of its own."""
    made = types.ModuleType("library_of_networks")
    exec("def predict(x):\n    return network(x)", made.__dict__)
    made.network = network
    return made


def held_in_a_list(network):
    networks = [network]
    return lambda x: networks[0](norm(x))


def held_in_a_dict(network):
    networks = {"student": (network,)}
    return lambda x: networks["student"][0](norm(x))


def among(values):
    """Modules by name, by way of objects that ``values`` makes."""
    return {name: lambda network, make=make: make(Trainer(network)) for name, make in values.items()}


class Ensemble(nn.Module):
    """Holds networks in collections in which torch does not find them."""

    def __init__(self, network):
        super().__init__()
        self.inner = nn.Sequential(nn.Identity())
        self.networks = {"first": (network,)}

    def forward(self, x):
        return self.networks["first"][0](self.inner(x))


AROUND = {
    "collection of a module": Ensemble,
    "collection of a submodule": lambda network: nn.Sequential(Ensemble(network), nn.Identity()),
    "collection of a module in a function": lambda network: (lambda held: lambda x: held(norm(x)))(Ensemble(network)),
    "list": held_in_a_list,
    "dict": held_in_a_dict,
    "library": lambda network: (lambda made: lambda x: made.network(norm(x)))(library(network)),
    "function of a library": lambda network: (lambda made: lambda x: made.predict(norm(x)))(library(network)),
    **among(
        {
            "attribute": lambda trainer: trainer.closure(),
            "attribute alone": lambda trainer: lambda x: trainer.model(x),
            "attribute of an attribute": lambda trainer: lambda x: trainer.parts.student(norm(x)),
            "collection of an object": lambda trainer: lambda x: trainer.models["teacher"][0](norm(x)),
            "property": lambda trainer: lambda x: trainer.best(norm(x)),
            "method": lambda trainer: lambda x: trainer.predict(norm(x)),
            "call": lambda trainer: lambda x: trainer(norm(x)),
            "inner function": lambda trainer: lambda x: (lambda z: trainer.model(z))(norm(x)),
            "partial": lambda trainer: functools.partial(lambda t, z, x: t.model(z(x)), trainer, norm),
            "partial of a method": lambda trainer: functools.partial(trainer.predict),
            "default": lambda trainer: lambda x, t=trainer: t.model(norm(x)),
            "object": lambda trainer: trainer,
            "normalised object": lambda trainer: Normalized(trainer, 0.5, 0.5),
            "logits of an object": lambda trainer: Logits(types.MethodType(lambda t, x: {"logits": t(x)}, trainer)),
            "wrapper in a wrapper": lambda trainer: Logits(Normalized(lambda x: (trainer(x), 0), 0.5, 0.5), 0),
            "wrapper in a module": lambda trainer: nn.Sequential(Normalized(trainer, 0.5, 0.5), nn.Identity()),
        }
    ),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_the_network_is_in_eval_mode_and_unmoved(around, network, images, labels):
    network.train()
    model = around(network)
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(model, images, labels, eps=0.1, seed=0)
    assert torch.equal(torch.get_rng_state(), random)
    torch.testing.assert_close(network.state_dict(), before, atol=0, rtol=0)
    assert all(module.training for module in network.modules())


def test_what_no_code_names_is_left_alone(network):
    trainer = types.SimpleNamespace(model=network, teacher=nn.Linear(3, 3), data=list(range(10**6)), parts={})
    trainer.parts["first"] = types.SimpleNamespace(student=network, teacher=trainer.teacher)
    assert modules_in(lambda x: trainer.model(x)) == (network,)
    assert set(modules_in(lambda x: trainer.parts["first"].student(NETWORK(x)))) == {network, NETWORK}


def test_a_network_that_keeps_its_mode_does_so_behind_a_callable(network):
    keeps = KeepMode(network)
    with pytest.warns(UserWarning, match=r"no torch\.nn\.Module was found"):
        assert modules_in(lambda x: keeps(x)) == ()


def test_objects_that_hold_each_other(network):
    trainer = Trainer(network)
    trainer.model, trainer.parts.student, trainer.parts.own = trainer, trainer, [trainer]
    trainer.models["teacher"] = trainer.models
    with pytest.warns(UserWarning, match=r"no torch\.nn\.Module was found"):
        assert modules_in(lambda x: trainer.model.parts.own[0].models["teacher"](x)) == ()
